"""The command ``ltx2 serve`` as a process: it starts, drains at SIGTERM, and takes up its jobs again."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.serve.app import application
from ltx2_core.serve.guard import read_tokens
from ltx2_core.serve.server import LOOPBACK_NAMES, Address, DrainingServer, serve
from ltx2_core.serve.stored_job import State
from ltx2_core.storage.private import locked

from .conftest import MOST_S, SMALL, wait_for

ROOT = Path(__file__).resolve().parents[2]
JOB = {"model": "ltx2-tiny", "request": {"prompt": "a red circle", "seed": 3, **SMALL}}


@contextmanager
def server(state: Path, *options: object):
    """A running server with its client; killed at the end of the block if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ltx2_core.cli.main", "serve", "--port", "0", "--state", state]
        + [str(option) for option in ("--dtype", "float32", *options)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)
    reading.start()
    try:
        found = wait_for(
            lambda: re.search(r"http://127\.0\.0\.1:\d+", "".join(lines)) or process.poll() is not None
        )
        assert found is not True, lines
        with httpx.Client(base_url=found.group(), timeout=MOST_S) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def listening(service):
    """A server of this process for ``service``, with its client; drained at the end of the block."""
    app = application(service, hosts=LOOPBACK_NAMES)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
    server = DrainingServer(config, service, app.state.streams, drain_s=MOST_S)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    service.start()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=MOST_S) as client:
            yield server, client
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(timeout=MOST_S)
    assert not thread.is_alive()


def test_a_server_that_drains_answers_until_its_job_has_ended(service):
    job = {**JOB, "model": "ltx2"}
    publish, go = service.board.set, threading.Event()

    def wait_and_publish(job_id, snapshot) -> None:
        publish(job_id, snapshot)
        # The job runs until the server has been seen while it drains.
        go.wait()

    service.board.set = wait_and_publish
    with ExitStack() as stack:
        server, client = stack.enter_context(listening(service))
        stack.callback(go.set)
        first, second = (client.post("/v1/jobs", json=job).json()["id"] for _ in range(2))
        with client.stream("GET", f"/v1/jobs/{first}/events") as events:
            lines = events.iter_lines()
            wait_for(lambda: '"progress": {' in next(lines))
            server.handle_exit(signal.SIGTERM, None)
            wait_for(service.draining.is_set)
            assert client.post("/v1/jobs", json=job).json()["error"]["code"] == "DRAINING"
            assert client.get(f"/v1/jobs/{first}").json()["state"] == "running"
            go.set()
            # The client that follows the job sees its end.
            assert '"state": "succeeded"' in [line for line in lines if line.startswith("data")][-1]
        wait_for(lambda: server.should_exit)
    assert service.store.get(second).state is State.QUEUED


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_server_ends_its_job_at_sigterm_and_the_next_one_runs_what_waits(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    headers = {"authorization": "Bearer secret"}
    with server(tmp_path / "state", "--token-file", token) as (process, client):
        assert client.get("/v1/jobs").status_code == 401
        client.headers.update(headers)
        first, second = (client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(2))
        wait_for(lambda: client.get(f"/v1/jobs/{first}").json()["state"] != "queued")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=MOST_S) == 0
    with server(tmp_path / "state", "--token-file", token) as (process, client):
        client.headers.update(headers)
        done = client.get(f"/v1/jobs/{first}").json()
        assert (done["state"], done["attempts"]) == ("succeeded", 1)
        wait_for(lambda: client.get(f"/v1/jobs/{second}").json()["state"] == "succeeded")
        one, two = (client.get(f"/v1/jobs/{job}/file").content for job in (first, second))
        # The same request gives the same clip, whichever process made it.
        assert one == two


def test_two_servers_do_not_share_a_state_folder(settings):
    settings.state.mkdir()
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(settings.state):
            held.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        with pytest.raises(ValueError, match="another run"):
            serve(settings, Address(port=0))
    finally:
        end.set()
        thread.join()


def test_a_port_that_is_taken_ends_the_command_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = CliRunner().invoke(main, ["serve", "--port", str(port), "--state", str(tmp_path / "state")])
    assert ran.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ran.output
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"checkpoints": ["text.txt"]}, "model 'mine': "),
        ({"checkpoints": ["model.safetensors"]}, "model 'mine': no text encoder is named"),
    ],
)
def test_wrong_files_of_a_model_end_the_command_before_it_serves(tmp_path, tiny_set, files, says):
    (tmp_path / "text.txt").write_text("no tensors")
    (tmp_path / "model.safetensors").symlink_to(tiny_set.checkpoint)
    (tmp_path / "models.json").write_text(json.dumps({"mine": files}))
    options = ["--port", "0", "--state", str(tmp_path / "state"), "--models", str(tmp_path / "models.json")]
    ran = CliRunner().invoke(main, ["serve", *options])
    assert ran.exit_code == 2, ran.output
    assert says in ran.output


def test_other_machines_are_served_with_a_token_alone():
    for host in ("0.0.0.0", "::", "192.168.1.2", "gpu.example"):
        with pytest.raises(ValueError, match="--token-file"):
            Address(host=host)
        assert Address(host=host, tokens=("secret",)).names() == ()
    assert "localhost" in Address(host="127.0.0.2").names()
    assert "proxy.example" in Address(hosts=("proxy.example",)).names()


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("", 0o600, "one token"),
        ("two words", 0o600, "one token"),
        ("schlüssel", 0o600, "one token"),
        pytest.param(
            *("secret", 0o644, "chmod 600"),
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes"),
        ),
    ],
)
def test_a_file_that_is_no_private_token_is_refused(tmp_path, text, mode, says):
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(ValueError, match=says):
        read_tokens(path)


WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name in ("fastapi", "uvicorn", "python_multipart"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
from ltx2_core.cli.main import main
main(["serve"])
"""


def test_without_the_extra_one_line_says_what_to_install():
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=ROOT, timeout=MOST_S
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.strip() == (
        'Error: ltx2 serve needs fastapi, uvicorn, python_multipart: pip install "comfyui-ltx2[serve]"'
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--models", "MISSING"], "MISSING"),
        (["--inputs", "MISSING"], "--inputs MISSING"),
        (["--token-file", "MISSING"], "MISSING"),
        (["--device", "tpu"], "--device"),
        (["--max-memory", "much"], "--max-memory"),
        (["--port", "70000"], "--port"),
        (["--base-url", "gpu.example"], "--base-url"),
        (["--base-url", "https://gpu.example/?a=1"], "--base-url"),
        (["--held-memory", "much"], "--held-memory: 'much' is not a size"),
        (["--held-memory", "0GB"], "--held-memory: '0GB' is not a size"),
        (["--held-models", "0"], "--held-models 0 must be a whole number"),
        (["--allow-urls", "https://example.com"], "--allow-urls https://example.com must be a host"),
        (["--allow-urls", "*.*"], "must be a host"),
        (["--allow-urls", ""], "--allow-urls is empty"),
    ],
)
def test_a_wrong_option_ends_the_command_in_one_line(tmp_path, options, says):
    ran = CliRunner().invoke(main, ["serve", "--state", str(tmp_path / "state"), *options])
    assert ran.exit_code == 2, ran.output
    assert says in ran.output
    assert not (tmp_path / "state").exists()


def test_neither_help_nor_generate_imports_the_service():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from ltx2_core.cli.main import main\n"
        "from ltx2_core.cli.generate import generate\n"
        "assert CliRunner().invoke(main, ['serve', '--help']).exit_code == 0\n"
        "found = {'fastapi', 'uvicorn', 'starlette', 'torch', 'ltx2_core.serve'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=MOST_S
    )
    assert ran.returncode == 0, ran.stderr
