"""Files by URL: none unless a host is allowed, then by https from public addresses, bounded."""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ltx2_core.serve import fetching
from ltx2_core.serve.expiry import Retention
from ltx2_core.serve.fetching import Fetcher, NotFetched, is_public
from ltx2_core.serve.service import Service
from ltx2_core.serve.stored_job import State

from .conftest import SMALL, application_client, settings_in

HOST = "files.example"
MOST = 100_000


@contextmanager
def site(photo: bytes):
    """A site on this machine; yields a function that connects to it in place of any host."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/moved":
                self.send_response(302)
                self.send_header("Location", query)
                self.end_headers()
                return
            self.send_response({"/missing": 404, "/nothing": 302}.get(path, 200))
            if path in ("/large", "/short"):
                self.send_header("Content-Length", str(MOST + 1 if path == "/large" else 10))
            self.end_headers()
            if path == "/endless":
                self.wfile.write(b"x" * (MOST + 1))
            elif path == "/slow":
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(b"abc" if path == "/short" else photo)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked: list[str] = []

    def connect(host: str, seconds: float) -> socket.socket:
        asked.append(host)
        return socket.create_connection(server.server_address, timeout=seconds)

    connect.asked = asked
    yield connect
    server.shutdown()
    server.server_close()


@pytest.fixture
def connect(photo):
    with site(photo.read_bytes()) as connect:
        yield connect


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ((HOST,), f"https://{HOST}/a.png"),
        ((HOST,), f"HTTPS://{HOST.upper()}:443/a.png?x=1"),
        (("other.example", HOST.upper()), f"https://{HOST}/a.png"),
        (("*.example",), f"https://{HOST}/a.png"),
        (("*",), f"https://{HOST}/a.png"),
        ((HOST,), f"https://{HOST}/moved?a.png"),
        ((HOST,), f"https://{HOST}/moved?https://{HOST}/moved?/a.png"),
    ],
)
def test_a_file_of_an_allowed_host_is_fetched(connect, photo, hosts, url):
    file = io.BytesIO()
    assert Fetcher(hosts, MOST, connect=connect).fetch(url, file) == "a.png"
    assert file.getvalue() == photo.read_bytes()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"http://{HOST}/a.png", "only https"),
        (f"ftp://{HOST}/a.png", "only https"),
        (f"https://{HOST}:8443/a.png", "without a port"),
        (f"https://user:word@{HOST}/a.png", "a user"),
        (f"https://{HOST}:99999/", "no URL"),
        ("https:///a.png", "only https"),
        ("https://[::1/a.png", "no URL"),
        ("https://other.example/a.png", "nothing from other.example"),
        (f"https://{HOST}.evil.example/a.png", "nothing from"),
        (f"https://evil{HOST}/a.png", "nothing from"),
        (f"https://{HOST}/a b.png", "%XX"),
        (f"https://{HOST}/a\r\nHost: b", "%XX"),
        (f"https://{HOST}/missing", "answers 404"),
        (f"https://{HOST}/nothing", "answers 302"),
        (f"https://{HOST}/moved?http://{HOST}/a.png", "only https"),
        (f"https://{HOST}/moved?https://169.254.169.254/latest", "nothing from 169.254.169.254"),
        (f"https://{HOST}/moved?file:///etc/passwd", "only https"),
        (f"https://{HOST}/moved?" + f"https://{HOST}/moved?" * 9, "more than 5 times"),
        (f"https://{HOST}/large", "more than 100000 bytes"),
        (f"https://{HOST}/endless", "more than 100000 bytes"),
        (f"https://{HOST}/short", "cannot be read"),
        (f"https://{HOST}/slow", "over 0.5 seconds"),
    ],
)
def test_what_may_not_be_fetched_is_refused(connect, url, says):
    began = time.monotonic()
    with pytest.raises(NotFetched, match=says):
        Fetcher((HOST,), MOST, seconds=0.5 if "slow" in url else 30, connect=connect).fetch(url, io.BytesIO())
    assert set(connect.asked) <= {HOST}
    # "slow" would go on for ten seconds, however soon each byte comes.
    assert "slow" not in url or time.monotonic() - began < 9


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        *(
            (one, False)
            for one in (
                *("127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
                *("100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
                *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"),
                # Others in the clothes of a public one.
                *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1"),
            )
        ),
    ],
)
def test_only_addresses_of_the_public_internet_are_connected_to(monkeypatch, address, public):
    assert is_public(address) == public
    connected: list[object] = []

    def refuse(where, timeout):
        connected.append(where)
        raise ConnectionRefusedError

    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))
    good = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443))
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *a, **k: [good, entry])
    monkeypatch.setattr(fetching.socket, "create_connection", refuse)
    with pytest.raises(NotFetched, match="cannot be read" if public else "nothing from the address"):
        Fetcher(("*",), MOST).fetch("https://files.example/a.png", io.BytesIO())
    # The address that was checked, and not the name, which may get another one.
    assert connected == ([("8.8.8.8", 443)] if public else [])


def test_both_apis_fetch_images_and_plans_fetch_none(tmp_path, models, tiny_set, photo, connect):
    settings = settings_in(tmp_path, models, url_hosts=(HOST,), retention=Retention(most_bytes=10_000_000))
    service = Service(settings)
    service.fetcher = Fetcher((HOST,), MOST, connect=connect)
    (settings.loras[0] / "style.safetensors").write_bytes(tiny_set.lora.read_bytes())
    url = f"https://{HOST}/a.png"
    body = {"model": "ltx2", "request": {"prompt": "a ball", "seed": 3, **SMALL, "image": url}}
    with application_client(service) as client:
        assert client.post("/v1/plan", json=body).json()["width"] == 64
        assert connect.asked == []
        made = client.post("/v1/jobs", json=body)
        assert made.status_code == 202, made.text
        # Used again it is that file, whatever is at the URL then.
        again = client.get(f"/v1/jobs/{made.json()['id']}/request").json()
        assert again["request"]["image"].startswith("uploads/")
        item = {"prompt": "a ball", "width": 64, "height": 64, "num_frames": 9, "sample_steps": 1}
        seed = {"model": "ltx2", "loras": [{"path": "style.safetensors"}]}
        seeded = client.post("/v1/inference", json={**seed, "prompts": [{**item, "ctrl_img": url}]})
        assert seeded.status_code == 200, seeded.text
        for bad in ("http://files.example/a.png", f"https://{HOST}/missing", "https://other.example/a.png"):
            refused = client.post("/v1/inference", json={**seed, "prompts": [{**item, "ctrl_img": bad}]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "INVALID_PARAMETER")
            job = client.post("/v1/jobs", json={**body, "request": {**body["request"], "image": bad}})
            assert (job.status_code, job.json()["error"]["code"]) == (422, "INVALID_PARAMETER")
        # LoRAs are files, also where images may be URLs.
        lora = client.post("/v1/inference", json={**seed, "loras": [{"path": url}], "prompts": [item]})
        assert lora.json()["detail"]["error"]["code"] == "LORA_NOT_FOUND"
        assert len(service.store.ids(State.QUEUED)) == 2
        for one in (made.json()["id"], seeded.json()["request_id"]):
            image = Path(service.store.spec(one)["clips"][0]["request"]["image"])
            assert image.parent == service.folder.uploads
            assert image.read_bytes() == photo.read_bytes()
    service.close()


def test_a_fetched_file_takes_room_as_an_upload_does(tmp_path, models, connect):
    service = Service(settings_in(tmp_path, models, url_hosts=(HOST,), retention=Retention(most_bytes=10)))
    service.fetcher = Fetcher((HOST,), MOST, connect=connect)
    with application_client(service) as client:
        body = {"model": "ltx2", "request": {"prompt": "a", **SMALL, "image": f"https://{HOST}/a.png"}}
        answer = client.post("/v1/jobs", json=body)
        assert answer.status_code == 422
        assert "room" in answer.text
        assert not any(service.folder.uploads.iterdir())
    service.close()
