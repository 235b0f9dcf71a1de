"""The service on this machine: overhead, many clients, kills, refusals. Exit code 1 if a limit is exceeded.

    python benchmarks/service.py --folder FOLDER
    python benchmarks/service.py overhead clients kills refusals --folder FOLDER

Each case starts ``ltx2 serve`` with the embedded set. What is measured is kept in ``--folder`` part by part,
so that a run that was stopped is resumed; ``--show`` prints what there is.

``overhead`` compares a job in the queue with the pipeline alone in one process, in pairs that take turns:
processor time of all of the service, and the time from the arrival of the job until its end.
``clients`` sends tiny jobs from many clients, each of which asks for the state of its job until its end and
sends the next, while one more connection measures how long the answer for a state takes, and another one that
of an empty server. ``kills`` ends the server by SIGKILL at random moments, and counts clips; the job that was
interrupted is made before the next kill, as one that ends three processes fails by design. ``refusals`` sends
the bad requests of the tests. The load of the machine is told with each: more than its number of cores means
that all processes wait for a core; ``nice -n -15`` in front has them wait for each other alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from service_load import ROOT, TINY, Server, measured_answers, served, start_clients

sys.path.insert(0, str(ROOT))

OVERHEAD_LIMIT, STATUS_LIMIT_S, GROWTH_LIMIT, REFUSALS = 1.02, 0.05, 1.1, 300
LARGER = {"width": 384, "height": 256, "num_frames": 81, "fps": 24, "steps": 20, "stages": 1}
"""Fields of the jobs of ``overhead``, which take ten seconds; those of released models take minutes."""


class Parts:
    """What was measured so far, as JSON lines in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "parts.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, case: str) -> list[dict[str, Any]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [part for part in map(json.loads, lines) if part["case"] == case]

    def add(self, case: str, **part: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"case": case, "load": os.getloadavg()[0], **part}) + "\n")


def overhead(parts: Parts, arguments: argparse.Namespace) -> None:
    """Measure pairs: a job in a queue, and the pipeline alone."""
    missing = range(len(parts.of("overhead")), arguments.pairs)
    if not missing:
        return
    import torch

    from ltx2_core.run.execution import Execution
    from ltx2_core.serve.models import TINY as NAME
    from ltx2_core.serve.models import read_models

    execution = Execution(device=torch.device("cpu"), dtype=torch.float32, keep_loaded=True)
    pipeline = read_models(None)[NAME].open(execution)

    with served(parts.folder / "overhead") as server, tempfile.TemporaryDirectory() as folder:

        def alone(seed: int) -> dict[str, float]:
            wall, cpu = time.perf_counter(), time.process_time()
            pipeline("a red circle bounces", seed=seed, **LARGER).save(Path(folder) / f"{seed}.mp4")
            return {"alone": time.perf_counter() - wall, "alone_cpu": time.process_time() - cpu}

        def in_queue(seed: int) -> dict[str, float]:
            cpu = server.cpu_seconds()
            job = server.ended(server.add(seed, **LARGER))
            seconds = seconds_between(job["created_at"], job["finished_at"])
            # What the job's process measured from the start of a clip until its file was on the disk.
            clips_s = sum(clip["total_s"] for clip in job["clips"])
            return {
                "queued": seconds,
                "queued_cpu": server.cpu_seconds() - cpu,
                "around": seconds - clips_s,
            }

        alone(0), in_queue(0)
        for pair in missing:
            runs = (alone, in_queue) if pair % 2 else (in_queue, alone)
            parts.add("overhead", **runs[0](pair + 1), **runs[1](pair + 1))


def show_overhead(found: Sequence[dict[str, Any]]) -> bool:
    def middle(of: Callable[[dict[str, Any]], float]) -> float:
        return median(map(of, found))

    ratio = middle(lambda part: part["queued_cpu"] / part["alone_cpu"])
    clock = middle(lambda part: part["queued"] / part["alone"])
    print(f"| a job of 384 x 256, 81 frames, 20 steps; medians of {len(found)} pairs | |\n|---|---|")
    print(f"| the pipeline alone, s of processor time (s by the clock) | {both(middle, 'alone')} |")
    print(f"| from its arrival in the queue to its end | {both(middle, 'queued')} |")
    print(f"| processor time of all of the service over that of the pipeline (at most 1.02) | {ratio:.3f} |")
    clocks = sorted(part["queued"] / part["alone"] for part in found)
    print(
        f"| time by the clock over that of the pipeline (at most 1.02); range of the pairs | {clock:.3f}; "
        f"{clocks[0]:.3f} to {clocks[-1]:.3f} |"
    )
    around = 1000 * middle(lambda part: part["around"])
    print(f"| of it before the clip is begun and after its file is on the disk, ms | {around:.0f} |")
    print(f"| {load_of(found)} |")
    return max(ratio, clock) <= OVERHEAD_LIMIT


def both(middle: Callable[[Callable[[dict[str, Any]], float]], float], name: str) -> str:
    return f"{middle(lambda part: part[f'{name}_cpu']):.2f} ({middle(lambda part: part[name]):.2f})"


def clients(parts: Parts, arguments: argparse.Namespace) -> None:
    """Measure rounds of tiny jobs from many clients."""
    missing = range(len(parts.of("clients")), arguments.rounds)
    if not missing:
        return
    share = arguments.jobs // arguments.clients // arguments.rounds
    with served(parts.folder / "clients") as server:
        warm = server.add(0, **TINY)
        server.ended(warm)
        for number in missing:
            before, began = server.counts(), time.perf_counter()
            with measured_answers(server, warm) as times:
                many = start_clients(server.port, arguments.clients, share, number * arguments.jobs)
                failed = many.wait() != 0
            succeeded = server.counts()["succeeded"] - before["succeeded"]
            parts.add(
                "clients",
                jobs=share * arguments.clients,
                succeeded=succeeded,
                failed=failed,
                seconds=time.perf_counter() - began,
                times=times,
                memory=server.memory(),
                pid=server.process.pid,
            )


def show_clients(found: Sequence[dict[str, Any]]) -> bool:
    total, lost = (
        sum(part["jobs"] for part in found),
        sum(part["jobs"] - part["succeeded"] for part in found),
    )
    own, bare = (sorted(t for part in found for t in part["times"][name]) for name in ("server", "bare"))
    growth = 1.0
    for part in found:
        first = next(one for one in found if one["pid"] == part["pid"])["memory"]
        growth = max(growth, *(part["memory"].get(name, 0) / size for name, size in first.items()))
    print("| tiny jobs of clients that ask for their state all the time | the service | an empty server |")
    print(f"|---|---|---|\n| jobs | {total} | |\n| jobs lost | {lost} | |")
    print(f"| seconds | {sum(part['seconds'] for part in found):.0f} | |")
    print(f"| answers measured beside them | {len(own)} | {len(bare)} |")
    for name, share in (("median", 0.5), ("p99", 0.99), ("longest", 1.0)):
        print(f"| {name} of an answer, ms | {1000 * at(own, share):.1f} | {1000 * at(bare, share):.1f} |")
    for name in found[0]["memory"]:
        sizes = ", ".join(f"{part['memory'].get(name, 0) / 2**20:.0f}" for part in found)
        print(f"| MiB of the {name.split()[0]} after each {found[0]['jobs']} jobs | {sizes} | |")
    print(f"| {load_of(found)} | |")
    failed = any(part["failed"] for part in found)
    return not failed and lost == 0 and at(own, 0.99) < STATUS_LIMIT_S and growth <= GROWTH_LIMIT


def at(times: Sequence[float], share: float) -> float:
    return times[min(int(len(times) * share), len(times) - 1)]


def kills(parts: Parts, arguments: argparse.Namespace) -> None:
    """Kill the server at random moments, and then look at what the jobs became."""
    drawn = random.Random(arguments.seed)
    moments = [drawn.uniform(0.0, arguments.within) for _ in range(arguments.kills)]
    fields = {**TINY, "steps": 32, "num_frames": 33}
    folder, before = parts.folder / "kills", parts.of("kills")
    folder.mkdir(exist_ok=True)
    jobs = [job for part in before for job in part["jobs"]]
    for number in range(len(before), arguments.kills):
        with served(folder) as server:
            for interrupted in [job for job in jobs[-4:] if attempts(server, job) > 1]:
                server.ended(interrupted)
            # Two with the same seed, so that a clip that was resumed is compared with another one.
            jobs += (new := [server.add(number, **fields) for _ in range(2)])
            time.sleep(moments[number])
            server.end(signal.SIGKILL)
        parts.add("kills", jobs=new, within=moments[number])
    if parts.of("clips") and parts.of("clips")[-1]["jobs"] == len(jobs):
        return
    with served(folder) as server:
        states = [server.ended(job) for job in jobs]
    results = folder / "state" / "results"
    files = [sorted(results.glob(f"{job}_output_*")) for job in jobs]
    content = [b"".join(path.read_bytes() for path in made) for made in files]
    parts.add(
        "clips",
        jobs=len(jobs),
        lost=sum(state["state"] != "succeeded" for state in states),
        doubled=sum(len(made) != 1 for made in files),
        different=sum(one != two for one, two in zip(content[::2], content[1::2], strict=True)),
        again=sum(state["attempts"] > 1 for state in states),
    )


def attempts(server: Server, job: str) -> int:
    return int(server.ask("GET", f"/v1/jobs/{job}")["attempts"])


def show_kills(found: Sequence[dict[str, Any]], clips: dict[str, Any]) -> bool:
    print(f"| {clips['jobs']} jobs, {len(found)} times SIGKILL | |\n|---|---|")
    print(f"| jobs lost | {clips['lost']} |\n| jobs without exactly one clip | {clips['doubled']} |")
    print(f"| pairs of equal requests with different files | {clips['different']} of {clips['jobs'] // 2} |")
    print(f"| jobs that were begun more than once | {clips['again']} |")
    print(f"| {load_of(found)} |")
    return not clips["lost"] and not clips["doubled"] and not clips["different"]


def refusals(parts: Parts, _: argparse.Namespace) -> None:
    """Send the bad requests of ``tests/serve``."""
    if parts.of("refusals"):
        return
    command = [sys.executable, "-m", "pytest", "-n", "0", "tests/serve/test_bad_requests.py"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    passed, failed = (re.search(rf"(\d+) {word}", ran.stdout) for word in ("passed", "failed"))
    counts = {"passed": int(passed[1]) if passed else 0, "failed": int(failed[1]) if failed else 0}
    parts.add("refusals", **counts, ok=ran.returncode == 0)


def show_refusals(found: dict[str, Any]) -> bool:
    print("| bad requests | |\n|---|---|")
    print(f"| answered with the promised status and code, of at least {REFUSALS} | {found['passed']} |")
    print(f"| answered in another way | {found['failed']} |")
    return bool(found["ok"]) and found["passed"] >= REFUSALS


def load_of(found: Sequence[dict[str, Any]]) -> str:
    loads = sorted(part["load"] for part in found)
    cores, span = os.cpu_count(), f"{loads[0]:.1f} to {loads[-1]:.1f}"
    return f"load of the machine ({cores} cores), median (range) | {median(loads):.1f} ({span})"


def seconds_between(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


CASES = {
    "overhead": (overhead, lambda parts: show_overhead(parts.of("overhead"))),
    "clients": (clients, lambda parts: show_clients(parts.of("clients"))),
    "kills": (kills, lambda parts: show_kills(parts.of("kills"), parts.of("clips")[-1])),
    "refusals": (refusals, lambda parts: show_refusals(parts.of("refusals")[0])),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # What is left out is checked too, and is an empty list.
    parser.add_argument("cases", nargs="*", metavar="case", choices=[*CASES, []], help=f"all of {[*CASES]}")
    parser.add_argument("--folder", type=Path, help="where parts are kept; without it they are not")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of jobs of overhead")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of clients")
    parser.add_argument("--clients", type=int, default=50, help="how many clients")
    parser.add_argument("--rounds", type=int, default=5, help="parts of the jobs of clients")
    parser.add_argument("--kills", type=int, default=20, help="how often the server is killed")
    parser.add_argument("--within", type=float, default=15.0, help="most seconds until a kill")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    arguments = parser.parse_args()
    ok = True
    folder = tempfile.TemporaryDirectory() if arguments.folder is None else nullcontext(arguments.folder)
    with folder as name:
        parts = Parts(Path(name))
        for number, case in enumerate(arguments.cases or CASES):
            measure, show = CASES[case]
            if not arguments.show:
                measure(parts, arguments)
            if number:
                print()
            ok = show(parts) and ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
