"""A running ``ltx2 serve`` for benchmarks/service.py, clients that load it, and how long answers take."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = {"width": 64, "height": 64, "num_frames": 9, "fps": 8, "steps": 1, "stages": 1, "cfg": 1.0}
"""Fields of the smallest job."""
_POLL_S = 0.5
"""Seconds between two questions of a client for the state of its job."""
_PROBE_S = 0.05


class Server:
    """``ltx2 serve`` with the embedded set, whose state is in ``folder``."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ltx2_core.cli.main", "serve", "--port", "0", "--dtype", "float32"]
        command += ["--state", str(folder / "state"), "--max-queue", "5000", *options]
        self.log = (folder / "log").open("ab")
        at = (folder / "log").stat().st_size
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=self.log)
        while not (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", self._logged(folder, at))):
            if self.process.poll() is not None:
                raise RuntimeError(self._logged(folder, at))
            time.sleep(0.05)
        self.port = int(found[1])

    def _logged(self, folder: Path, at: int) -> str:
        return (folder / "log").read_bytes()[at:].decode()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that comes back; raises RuntimeError for an error."""
        status, text = self.answer(method, path, body)
        if status >= 400:
            raise RuntimeError(f"{status} {text}")
        return json.loads(text) if text else None

    def answer(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        send = None if body is None else json.dumps(body)
        # The server closes a connection that is idle, so each request has its own.
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request(method, path, send, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def add(self, seed: int, **fields: Any) -> str:
        request = {"prompt": "a red circle bounces", "seed": seed, **fields}
        job: str = self.ask("POST", "/v1/jobs", {"model": "ltx2-tiny", "request": request})["id"]
        return job

    def ended(self, job: str) -> Any:
        """The job once it has ended."""
        while (found := self.ask("GET", f"/v1/jobs/{job}"))["finished_at"] is None:
            time.sleep(_POLL_S)
        return found

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        text = self.answer("GET", "/metrics")[1]
        return {state: int(n) for state, n in re.findall(r'ltx2_jobs\{state="(\w+)"\} (\d+)', text)}

    def memory(self) -> dict[str, int]:
        """Resident bytes of the server and of the process of its networks."""
        text = self.answer("GET", "/metrics")[1]
        return {n: int(b) for n, b in re.findall(r'ltx2_resident_bytes\{process="([\w ]+)"\} (\d+)', text)}

    def cpu_seconds(self) -> float:
        """Processor time that the server and the processes that it started have taken so far."""
        pids = [self.process.pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
        ticks = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids)
        return sum(int(user) + int(system) for user, system in ticks) / os.sysconf("SC_CLK_TCK")

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait()
        self.log.close()


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Server]:
    """A server that ends with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


@contextmanager
def measured_answers(server: Server, job: str) -> Iterator[dict[str, list[float]]]:
    """Seconds of answers for the state of ``job``, taken as long as the context lasts, twenty times a second.

    "server" are those of the server, and "bare" those of the smallest HTTP server that there can be, asked at
    the same time: what a process has to wait for a core of this machine is in both.
    """
    bare = subprocess.Popen([sys.executable, __file__, "bare"], stdout=subprocess.PIPE, text=True)
    assert bare.stdout is not None
    ports = {"server": server.port, "bare": int(bare.stdout.readline())}
    times: dict[str, list[float]] = {name: [] for name in ports}
    done = threading.Event()
    threads = [
        threading.Thread(target=_probe, args=(ports[name], f"/v1/jobs/{job}", times[name], done))
        for name in ports
    ]
    for thread in threads:
        thread.start()
    try:
        yield times
    finally:
        done.set()
        for thread in threads:
            thread.join()
        bare.terminate()
        bare.wait()


def _probe(port: int, path: str, times: list[float], done: threading.Event) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    while not done.wait(_PROBE_S):
        began = time.perf_counter()
        connection.request("GET", path)
        connection.getresponse().read()
        times.append(time.perf_counter() - began)
    connection.close()


def start_clients(port: int, clients: int, share: int, first_seed: int) -> subprocess.Popen[bytes]:
    """A process of ``clients`` clients with ``share`` jobs each; it ends with 0 if all have succeeded.

    Another process, so that what clients compute is no time of who measures.
    """
    numbers = map(str, (port, clients, share, first_seed))
    return subprocess.Popen([sys.executable, __file__, "clients", *numbers])


async def _clients(port: int, clients: int, share: int, first_seed: int) -> None:
    import httpx

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
            for index in range(share):
                request = {"prompt": "a red circle", "seed": first_seed + number * share + index, **TINY}
                answer = await http.post("/v1/jobs", json={"model": "ltx2-tiny", "request": request})
                path = f"/v1/jobs/{answer.raise_for_status().json()['id']}"
                while (found := (await http.get(path)).raise_for_status().json())["finished_at"] is None:
                    await asyncio.sleep(_POLL_S)
                if found["state"] != "succeeded":
                    raise RuntimeError(f"{path}: {found['state']}, {found['error']}")

    await asyncio.gather(*map(client, range(clients)))


async def _bare() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    which, *numbers = sys.argv[1:]
    asyncio.run(_bare() if which == "bare" else _clients(*map(int, numbers)))
