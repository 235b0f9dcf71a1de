"""How many more clips two replicas of a local Ray make than one, and how much sooner a group makes a clip.

    python benchmarks/replicas.py --clips 6 --rounds 3

Each arrangement makes the same clips of the tiny model, all of which wait from the start, after one that
loads it. Arrangements take turns, and the median of their rounds counts. A machine of two cores that does
nothing else can show twice as many clips at most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
import torch

from ltx2_core.run.distributed import Processes
from ltx2_core.run.execution import Execution
from ltx2_core.serve.models import TINY, read_models
from ltx2_core.serve.ray_runner import Scale, runners
from ltx2_core.serve.service import Service, Settings

ARRANGEMENTS = ((1, 1), (2, 1), (1, 2))
"""Numbers of replicas, and of processes in each."""
CLIP = {"width": 128, "height": 128, "num_frames": 41, "fps": 8, "stages": 1, "cfg": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    # Replicas have the priority of this program, and are not ended for what other programs hold.
    ray.init(
        num_cpus=5,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"worker_niceness": 0, "memory_monitor_refresh_ms": 0},
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = [
            stack.enter_context(running(folder / str(number), *how))
            for number, how in enumerate(ARRANGEMENTS)
        ]
        for service, (replicas, _) in zip(services, ARRANGEMENTS, strict=True):
            seconds_of(service, replicas, arguments.steps)
        rounds = [
            [seconds_of(service, arguments.clips, arguments.steps) for service in services]
            for _ in range(arguments.rounds)
        ]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    print("| replicas | processes of each | seconds | clips a minute | clips, against one replica |")
    print("|---|---|---|---|---|")
    for (replicas, count), seconds in zip(ARRANGEMENTS, medians, strict=True):
        clips = 60 * arguments.clips / seconds
        print(f"| {replicas} | {count} | {seconds:.1f} | {clips:.1f} | {medians[0] / seconds:.2f} |")


@contextmanager
def running(folder: Path, replicas: int, count: int) -> Iterator[Service]:
    """A service with so many replicas, each of ``count`` processes."""
    folder.mkdir()
    execution = Execution.on("cpu", torch.float32, processes=Processes(count=count))
    settings = Settings(state=folder / "state", models=read_models(None), execution=execution)
    scale = Scale(least=replicas, most=replicas, gpus=0)
    service = Service(settings, runners(settings.replica(), scale))
    service.start()
    try:
        yield service
    finally:
        service.drain(0)
        service.close()


def seconds_of(service: Service, clips: int, steps: int) -> float:
    """The seconds in which the service makes so many clips."""
    began = time.monotonic()
    jobs = []
    for seed in range(clips):
        request = {"prompt": "a red ball", "seed": seed, "steps": steps, **CLIP}
        clip = {"command": "generate", "request": request, "loras": []}
        jobs.append(service.add("job", {"model": TINY, "clips": [clip]}).id)
    for job_id in jobs:
        while not (job := service.store.get(job_id)) or not job.state.ended:
            time.sleep(0.02)
        if job.error:
            raise SystemExit(f"a job has failed: {job.error}")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
