"""The service on this machine: overhead, many clients, kills, refusals. Exit code 1 if a limit is exceeded.

    python benchmarks/service.py overhead clients kills refusals

Each case starts ``ltx2 serve`` with the embedded set in a folder of its own. ``overhead`` compares the time
between the ends of queued jobs with that of the pipeline alone in one process, alternating. ``clients`` sends
tiny jobs from many connections that poll all the time, while one more connection measures how long the answer
for a state takes. ``kills`` ends the server by SIGKILL again and again, and counts clips. ``refusals`` sends
the bad requests of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TINY = {"width": 64, "height": 64, "num_frames": 9, "fps": 8, "steps": 1, "stages": 1, "cfg": 1.0}
OVERHEAD_LIMIT, STATUS_LIMIT_S, GROWTH_LIMIT = 1.02, 0.05, 1.1


class Server:
    """A running ``ltx2 serve`` whose state is in ``folder``."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ltx2_core.cli.main", "serve", "--port", "0", "--dtype", "float32"]
        command += ["--state", str(folder / "state"), "--max-queue", "5000", *options]
        self.log = (folder / "log").open("ab")
        at = (folder / "log").stat().st_size
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=self.log)
        while True:
            text = (folder / "log").read_bytes()[at:].decode()
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", text)
            if found:
                self.port = int(found[1])
                break
            if self.process.poll() is not None:
                raise RuntimeError(text)
            time.sleep(0.05)
        self.connection = HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that comes back; raises RuntimeError for an error."""
        status, text = self.answer(method, path, body)
        if status >= 400:
            raise RuntimeError(f"{status} {text}")
        return json.loads(text) if text else None

    def answer(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        send = None if body is None else json.dumps(body)
        self.connection.request(method, path, send, {"content-type": "application/json"})
        response = self.connection.getresponse()
        return response.status, response.read().decode()

    def add(self, seed: int, **fields: Any) -> str:
        request = {"prompt": "a red circle bounces", "seed": seed, **fields}
        job: str = self.ask("POST", "/v1/jobs", {"model": "ltx2-tiny", "request": request})["id"]
        return job

    def counts(self) -> dict[str, int]:
        text = self.answer("GET", "/metrics")[1]
        return {state: int(n) for state, n in re.findall(r'ltx2_jobs\{state="(\w+)"\} (\d+)', text)}

    def memory(self) -> dict[str, int]:
        text = self.answer("GET", "/metrics")[1]
        return {n: int(b) for n, b in re.findall(r'ltx2_resident_bytes\{process="([\w ]+)"\} (\d+)', text)}

    def wait(self, ended: int) -> None:
        """Wait until so many jobs have ended."""
        while (counts := self.counts())["queued"] + counts["running"] or sum(counts.values()) < ended:
            time.sleep(0.2)

    def end(self, number: int = signal.SIGTERM) -> None:
        self.connection.close()
        self.process.send_signal(number)
        self.process.wait()
        self.log.close()


@contextmanager
def served(*options: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="ltx2_service_") as name:
        server = Server(Path(name), *options)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.end()


def overhead(arguments: argparse.Namespace) -> bool:
    """The time of a job in a queue over that of the pipeline alone."""
    import torch

    from ltx2_core.run.execution import Execution
    from ltx2_core.serve.models import TINY as NAME
    from ltx2_core.serve.models import read_models

    execution = Execution(device=torch.device("cpu"), dtype=torch.float32, keep_loaded=True)
    pipeline = read_models(None)[NAME].open(execution)
    fields = {"width": 256, "height": 256, "num_frames": 41, "fps": 24, "steps": 12, "stages": 1}
    ratios, direct, queued = [], [], []
    with served() as server, tempfile.TemporaryDirectory() as folder:

        def alone(seed: int) -> float:
            began = time.perf_counter()
            pipeline("a red circle bounces", seed=seed, **fields).save(Path(folder) / f"{seed}.mp4")
            return time.perf_counter() - began

        def in_queue(seed: int) -> float:
            began = time.perf_counter()
            job = server.add(seed, **fields)
            with contextlib.suppress(KeyError):
                while server.ask("GET", f"/v1/jobs/{job}")["finished_at"] is None:
                    time.sleep(0.05)
            found = server.ask("GET", f"/v1/jobs/{job}")
            del began
            return seconds_between(found["created_at"], found["finished_at"])

        alone(0), in_queue(0)
        for seed in range(1, arguments.pairs + 1):
            pair = (alone(seed), in_queue(seed)) if seed % 2 else (in_queue(seed), alone(seed))[::-1]
            direct.append(pair[0])
            queued.append(pair[1])
            ratios.append(pair[1] / pair[0])
    ratio = statistics.median(ratios)
    print("| a job | seconds, median |\n|---|---|")
    print(f"| the pipeline alone | {statistics.median(direct):.2f} |")
    print(f"| from its arrival in the queue to its end | {statistics.median(queued):.2f} |")
    print(f"| ratio, median of {len(ratios)} pairs (at most {OVERHEAD_LIMIT}) | {ratio:.3f} |")
    return ratio <= OVERHEAD_LIMIT


def seconds_between(first: str, last: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def clients(arguments: argparse.Namespace) -> bool:
    """Tiny jobs from many clients: none lost, quick answers, no growing memory."""
    share = arguments.jobs // arguments.clients
    total = share * arguments.clients
    with served() as server:
        seen = {"early": {}, "late": {}}
        times: list[float] = []
        done = threading.Event()
        prober = threading.Thread(target=probe, args=(server.port, times, done))
        warm = server.add(0, **TINY)
        while server.ask("GET", f"/v1/jobs/{warm}")["finished_at"] is None:
            time.sleep(0.1)
        # The clients are another process, whose own waiting is no time of the server.
        began = time.perf_counter()
        many = subprocess.Popen(
            [sys.executable, __file__, "--one", str(server.port), str(arguments.clients), str(share)]
        )
        prober.start()
        while many.poll() is None:
            ended = server.counts()["succeeded"]
            if ended >= total * 0.3 and not seen["early"]:
                seen["early"] = server.memory()
            time.sleep(0.5)
        server.wait(total + 1)
        done.set()
        prober.join()
        seconds, counts, seen["late"] = time.perf_counter() - began, server.counts(), server.memory()
    times.sort()
    p99 = times[int(len(times) * 0.99)]
    growth = max(seen["late"][name] / size for name, size in seen["early"].items())
    lost = total + 1 - counts["succeeded"]
    print(f"| {total} jobs of {arguments.clients} clients that poll all the time | |\n|---|---|")
    print(f"| jobs lost | {lost} |")
    print(f"| seconds | {seconds:.0f} |")
    print(f"| answers for a state, measured beside them | {len(times)} |")
    for name, value in (("median", times[len(times) // 2]), ("p99", p99), ("longest", times[-1])):
        print(f"| {name} of an answer, ms | {1000 * value:.1f} |")
    print(f"| memory at the end over that after 30 % of the jobs | {growth:.3f} |")
    print(f"| load of the machine at the end | {os.getloadavg()[0]:.1f} |")
    return lost == 0 and p99 < STATUS_LIMIT_S and growth <= GROWTH_LIMIT


def probe(port: int, times: list[float], done: threading.Event) -> None:
    """Ask for the state of a job twenty times a second, and add the seconds that each answer took."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/v1/jobs?limit=1")
    job = json.loads(connection.getresponse().read())["jobs"][0]["id"]
    while not done.wait(0.05):
        began = time.perf_counter()
        connection.request("GET", f"/v1/jobs/{job}")
        connection.getresponse().read()
        times.append(time.perf_counter() - began)


async def send_jobs(port: int, count: int, share: int) -> None:
    """Each of ``count`` clients adds ``share`` jobs, one after the other, and asks for each until its end."""
    import httpx

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
            for index in range(share):
                request = {"prompt": "a red circle", "seed": number * share + index, **TINY}
                answer = await http.post("/v1/jobs", json={"model": "ltx2-tiny", "request": request})
                job = answer.raise_for_status().json()["id"]
                for _ in range(5):
                    await asyncio.sleep(0.5)
                    (await http.get(f"/v1/jobs/{job}")).raise_for_status()

    await asyncio.gather(*map(client, range(count)))


def kills(arguments: argparse.Namespace) -> bool:
    """The server is killed at random moments; each job has one clip, and equal requests equal ones."""
    drawn = random.Random(arguments.seed)
    fields = {**TINY, "steps": 8, "num_frames": 17}
    with tempfile.TemporaryDirectory(prefix="ltx2_service_") as name:
        folder = Path(name)
        jobs: list[str] = []
        for number in range(arguments.kills):
            server = Server(folder)
            # Two with the same seed, so that a clip that was resumed is compared with another one.
            jobs += [server.add(seed, **fields) for seed in (number, number)]
            time.sleep(drawn.uniform(0.0, arguments.within))
            server.end(signal.SIGKILL)
        server = Server(folder)
        server.wait(len(jobs))
        states = {job: server.ask("GET", f"/v1/jobs/{job}") for job in jobs}
        server.end()
        results = folder / "state" / "results"
        lost = [job for job in jobs if states[job]["state"] != "succeeded"]
        doubled = [job for job in jobs if len(list(results.glob(f"{job}_output_*"))) > 1]
        content = [b"".join(path.read_bytes() for path in results.glob(f"{job}_*")) for job in jobs]
        different = sum(one != two for one, two in zip(content[::2], content[1::2], strict=True))
        again = sum(states[job]["attempts"] > 1 for job in jobs)
    print(f"| {len(jobs)} jobs, {arguments.kills} times SIGKILL | |\n|---|---|")
    print(f"| jobs lost | {len(lost)} |\n| jobs with more than one clip | {len(doubled)} |")
    print(f"| pairs of equal requests with different files | {different} of {len(jobs) // 2} |")
    print(f"| jobs that were begun more than once | {again} |")
    return not lost and not doubled and not different


def refusals(_: argparse.Namespace) -> bool:
    """The bad requests of ``tests/serve``, each answered with the promised status."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/serve/test_bad_requests.py"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"bad requests, each with the promised status: {ran.stdout.strip().splitlines()[-1]}")
    return ran.returncode == 0


CASES = {"overhead": overhead, "clients": clients, "kills": kills, "refusals": refusals}


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        asyncio.run(send_jobs(*map(int, sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=CASES, default=[*CASES])
    parser.add_argument("--pairs", type=int, default=7, help="pairs of jobs of overhead")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of clients")
    parser.add_argument("--clients", type=int, default=50, help="how many clients")
    parser.add_argument("--kills", type=int, default=20, help="how often the server is killed")
    parser.add_argument("--within", type=float, default=6.0, help="most seconds until a kill")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    arguments = parser.parse_args()
    ok = True
    for number, name in enumerate(arguments.cases):
        if number:
            print()
        ok = CASES[name](arguments) and ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
