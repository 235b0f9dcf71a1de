"""Uploads in pieces (tus 1.0): a client continues where the server has its file, also after a restart."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field

import pytest

from ltx2_core.serve.expiry import Retention
from ltx2_core.serve.files import UNFINISHED_S, expire
from ltx2_core.serve.service import Limits, Service
from ltx2_core.serve.stored_job import State
from ltx2_core.serve.upload_routes import PIECE_TYPE
from ltx2_core.serve.uploads import MOST_UNFINISHED, NoRoom, Uploads

from .conftest import SMALL, application_client, ended, settings_in, wait_for
from .test_server import server

TUS = {"tus-resumable": "1.0.0"}


def begin(client, length: int, name: str = "photo.png") -> str:
    """Begin an upload; returns the path of its route."""
    encoded = base64.b64encode(name.encode()).decode()
    headers = {**TUS, "upload-length": str(length), "upload-metadata": f"filetype aQ==,filename {encoded}"}
    answer = client.post("/v1/uploads", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{client.base_url}/v1/uploads/{answer.json()['path'][8:]}"
    return f"/v1/{answer.json()['path']}"


def send(client, upload: str, data: bytes, offset: int, **more: str):
    headers = {**TUS, "content-type": PIECE_TYPE, "upload-offset": str(offset), **more}
    return client.patch(upload, content=data, headers=headers)


def offset(client, upload: str) -> int:
    answer = client.head(upload, headers=TUS)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    return int(answer.headers["upload-offset"])


def test_a_file_in_pieces_is_used_by_a_job_once_it_is_whole(service, client, photo):
    data = photo.read_bytes()
    upload = begin(client, len(data), "../../Photo.PNG")
    assert upload.endswith(".png")
    body = {"model": "ltx2", "request": {"prompt": "a", **SMALL, "image": upload.removeprefix("/v1/")}}
    at = 0
    while at < len(data):
        # A part of a file is no file.
        assert client.post("/v1/jobs", json=body).status_code == 422
        answer = send(client, upload, data[at : at + len(data) // 3 + 1], at)
        assert answer.status_code == 204, answer.text
        at = int(answer.headers["upload-offset"])
        assert offset(client, upload) == at
    # A client that has not received the last answer asks, or sends nothing once more.
    assert send(client, upload, b"", at).status_code == 204
    made = client.post("/v1/jobs", json=body)
    assert made.status_code == 202, made.text
    assert client.delete(upload, headers=TUS).json()["error"]["code"] == "NOT_ENDED"
    service.start()
    assert ended(service, made.json()["id"]).state is State.SUCCEEDED
    assert client.delete(upload, headers=TUS).status_code == 204
    assert client.head(upload, headers=TUS).status_code == 404
    assert not any(service.folder.uploads.iterdir())


def test_a_restart_continues_an_upload_where_it_was(settings):
    first = Service(settings)
    with application_client(first) as client:
        upload, empty = begin(client, 6), begin(client, 0)
        send(client, upload, b"abcd", 0)
        killed = begin(client, 3)
    first.close()
    # As a process leaves it that is killed between the last byte and its answer.
    (part,) = first.folder.unfinished.glob(f"{killed[12:]}.*")
    part.write_bytes(b"xyz")
    second = Service(settings)
    with application_client(second) as client:
        assert [offset(client, one) for one in (upload, empty, killed)] == [4, 0, 3]
        assert send(client, upload, b"ef", 4).headers["upload-offset"] == "6"
    names = {one[12:]: data for one, data in ((upload, b"abcdef"), (empty, b""), (killed, b"xyz"))}
    assert {path.name: path.read_bytes() for path in second.folder.uploads.iterdir()} == names
    assert not any(second.folder.unfinished.iterdir())
    second.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_has_arrived_before_a_kill_is_not_sent_again(tmp_path):
    data = os.urandom(1_000_000)
    with server(tmp_path / "state") as (process, client):
        upload = begin(client, len(data))
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            head = (
                f"PATCH {upload} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
            )
            raw.sendall(f"{head}Content-Type: {PIECE_TYPE}\r\nContent-Length: {len(data)}\r\n\r\n".encode())
            raw.sendall(data[:600_000])
            wait_for(lambda: offset(client, upload) > 0)
            process.send_signal(signal.SIGKILL)
            process.wait()
    with server(tmp_path / "state") as (_, client):
        at = offset(client, upload)
        assert 0 < at <= 600_000
        assert send(client, upload, data[at:], at).status_code == 204
    assert (tmp_path / "state" / "uploads" / upload[12:]).read_bytes() == data


def test_a_piece_that_is_cut_stays_as_far_as_it_has_come(service, client):
    upload = begin(client, 8)

    messages = [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    async def put(message):
        sent.append(message)

    headers = {**TUS, "content-type": PIECE_TYPE, "upload-offset": "0", "host": "127.0.0.1"}
    scope = {
        "type": "http",
        "method": "PATCH",
        "path": upload,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(client.app(scope, receive, put))
    assert offset(client, upload) == 3
    answer = send(client, upload, b"defghijk", 3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
    assert offset(client, upload) == 3
    assert send(client, upload, b"defgh", 3).status_code == 204
    assert (service.folder.uploads / upload[12:]).read_bytes() == b"abcdefgh"


def test_one_piece_of_an_upload_arrives_at_a_time(service, client):
    upload = begin(client, 8)
    piece = service.uploads.open(upload[12:], 0)
    for answer in (send(client, upload, b"a", 0), client.delete(upload, headers=TUS)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (423, "UPLOAD_BUSY")
    piece.write(b"abc")
    piece.close()
    assert send(client, upload, b"defgh", 3).status_code == 204
    assert (service.folder.uploads / upload[12:]).read_bytes() == b"abcdefgh"


@dataclass(frozen=True)
class Wrong:
    """A piece that is refused, and with what."""

    name: str
    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ef"
    upload: str | None = None
    method: str = "PATCH"


@pytest.mark.parametrize(
    "row",
    [
        Wrong("no version", 412, "WRONG_VERSION", {"tus-resumable": ""}),
        Wrong("another version", 412, "WRONG_VERSION", {"tus-resumable": "0.2.2"}),
        Wrong("a form", 415, "WRONG_TYPE", {"content-type": "multipart/form-data"}),
        Wrong("no offset", 400, "INVALID_PARAMETER", {"upload-offset": ""}),
        Wrong("an offset below 0", 400, "INVALID_PARAMETER", {"upload-offset": "-1"}),
        Wrong("an offset that is no number", 400, "INVALID_PARAMETER", {"upload-offset": "4.0"}),
        Wrong("an offset of 400 digits", 400, "INVALID_PARAMETER", {"upload-offset": "4" * 400}),
        Wrong("bytes that are here already", 409, "WRONG_OFFSET", {"upload-offset": "3"}),
        Wrong("bytes behind a gap", 409, "WRONG_OFFSET", {"upload-offset": "5"}),
        Wrong("a byte too many", 413, "BODY_TOO_LARGE", body=b"efghi"),
        Wrong("more than a file may have", 413, "BODY_TOO_LARGE", body=b"x" * 70_000),
        Wrong("an unknown upload", 404, "FILE_NOT_FOUND", upload="0" * 36),
        Wrong("a name that is a pattern", 404, "FILE_NOT_FOUND", upload="*"),
        Wrong("a name of 10000 letters", 404, "FILE_NOT_FOUND", upload="a" * 10_000),
        Wrong("a name outside", 404, "FILE_NOT_FOUND", upload="..%5Cjobs.sqlite"),
        Wrong("remove another version's", 412, "WRONG_VERSION", {"tus-resumable": "2"}, method="DELETE"),
        Wrong("remove an unknown one", 404, "FILE_NOT_FOUND", upload="0" * 36, method="DELETE"),
    ],
    ids=lambda row: row.name,
)
def test_a_wrong_piece_is_refused_and_changes_nothing(tmp_path, models, row):
    service = Service(settings_in(tmp_path, models, limits=Limits(upload_bytes=100)))
    with application_client(service) as client:
        upload = begin(client, 8)
        send(client, upload, b"abcd", 0)
        path = upload if row.upload is None else f"/v1/uploads/{row.upload}"
        headers = {**TUS, "content-type": PIECE_TYPE, "upload-offset": "4", **row.headers}
        content = row.body if row.method == "PATCH" else None
        answer = client.request(row.method, path, content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (row.status, row.code)
        assert offset(client, upload) == 4
        assert send(client, upload, b"efgh", 4).status_code == 204
    service.close()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"tus-resumable": "0.1"}, 412, "WRONG_VERSION"),
        ({"upload-length": ""}, 400, "INVALID_PARAMETER"),
        ({"upload-length": "many"}, 400, "INVALID_PARAMETER"),
        ({"upload-length": "-5"}, 400, "INVALID_PARAMETER"),
        ({"upload-length": "101"}, 413, "BODY_TOO_LARGE"),
        ({"upload-length": "9" * 50}, 400, "INVALID_PARAMETER"),
        ({"upload-metadata": "filename ???"}, 400, "INVALID_PARAMETER"),
        # Its length counts, though nothing of it has arrived.
        ({"upload-length": "41"}, 507, "NO_ROOM"),
    ],
    ids=str,
)
def test_a_wrong_begin_of_an_upload_is_refused_and_leaves_no_file(tmp_path, models, headers, status, code):
    limits, retention = Limits(upload_bytes=100), Retention(most_bytes=100)
    service = Service(settings_in(tmp_path, models, limits=limits, retention=retention))
    with application_client(service) as client:
        begin(client, 60)
        answer = client.post("/v1/uploads", headers={**TUS, "upload-length": "40", **headers})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert len(list(service.folder.unfinished.iterdir())) == 1
        about = client.options("/v1/uploads")
        assert (about.status_code, about.headers["tus-version"]) == (204, "1.0.0")
        assert about.headers["tus-max-size"] == "100"
    service.close()


def test_uploads_in_pieces_need_the_token(service):
    with application_client(service, tokens=("secret",)) as client:
        assert client.post("/v1/uploads", headers={**TUS, "upload-length": "1"}).status_code == 401
        assert send(client, f"/v1/uploads/{'0' * 36}", b"a", 0).status_code == 401


def test_uploads_that_are_never_finished_expire_and_are_limited_in_number(service, client):
    old, new = (begin(client, 5) for _ in range(2))
    (path,) = service.folder.unfinished.glob(f"{old[12:]}.*")
    long_ago = time.time() - UNFINISHED_S - 60
    os.utime(path, (long_ago, long_ago))
    expire(service.store, service.folder, age_s=10 * UNFINISHED_S, most_bytes=10**9)
    assert client.head(old, headers=TUS).status_code == 404
    assert offset(client, new) == 0
    for number in range(MOST_UNFINISHED - 1):
        (service.folder.unfinished / f"{number}.1").touch()
    with pytest.raises(NoRoom):
        service.uploads.begin(1, "")


def test_a_disk_that_is_full_in_the_middle_of_a_piece_is_told(service, client, monkeypatch):
    upload = begin(client, 8)

    def full(piece, data) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ltx2_core.serve.uploads.Piece.write", full)
    answer = send(client, upload, b"abcd", 0)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "NO_ROOM")
    monkeypatch.undo()
    assert send(client, upload, b"abcdefgh", 0).status_code == 204


def test_the_whole_name_of_an_upload_is_no_path(tmp_path):
    (tmp_path / "up").mkdir()
    (tmp_path / "un").mkdir()
    (tmp_path / "secret").touch()
    uploads = Uploads(tmp_path / "up", tmp_path / "un", 100)
    for name in ("../secret", "..", "", ".", "a/b", "*", "?" * 36, "0" * 36 + ".toolong"):
        assert uploads.arrival(name) is None
    name = uploads.begin(3, ".png")
    assert uploads.arrival(name).length == 3
