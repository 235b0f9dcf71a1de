"""Replicas on a local Ray: more of them are faster, and a job of a killed one is finished elsewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from ltx2_core.serve.models import read_models
from ltx2_core.serve.service import Service
from ltx2_core.serve.store import JobStore
from ltx2_core.serve.stored_job import State

from .conftest import ENDLESS, MOST_S, SMALL, ended, settings_in, spec, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Ray's support of Windows is experimental"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def cluster():
    # Other programs may leave this machine little memory, for which Ray would end replicas, and little time,
    # of which replicas would get what is left.
    ray = pytest.importorskip("ray")
    alone = {"memory_monitor_refresh_ms": 0, "worker_niceness": 0}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _system_config=alone)
    yield ray
    ray.shutdown()


def served(folder, *, workers):
    from ltx2_core.serve.ray_runner import Scale, runners

    folder.mkdir()
    settings = settings_in(folder, read_models(None))
    return Service(settings, runners(settings.replica(), Scale(least=workers, most=workers, gpus=0)))


def test_a_job_whose_replica_is_killed_is_finished_by_another_with_the_same_frames(cluster, tmp_path):
    service = served(tmp_path / "ray", workers=2)
    began = []
    publish = service.board.set
    service.board.set = lambda job_id, snapshot: (began.append((job_id, snapshot)), publish(job_id, snapshot))

    try:
        job = service.add("job", {**spec(steps=60), "model": "ltx2-tiny"})
        service.start()
        wait_for(lambda: any(one[0] == job.id and one[1].stage == "stage 1" for one in began))
        replicas = [worker._runner._replica for worker in service.workers]
        (actor,) = [actor for one in replicas if one is not None for actor in one.actors]
        os.kill(cluster.get(actor.pid.remote()), signal.SIGKILL)
        done = ended(service, job.id)
        assert (done.state, done.attempts) == (State.SUCCEEDED, 2), done.error
        same = service.add("job", {**spec(steps=60), "model": "ltx2-tiny"})
        whole = ended(service, same.id)
        assert (whole.state, whole.attempts) == (State.SUCCEEDED, 1), whole.error
        one, two = (
            (service.folder.results / found.outcome["clips"][0]["file"]).read_bytes()
            for found in (done, whole)
        )
        assert one == two
        long = service.add("job", {**spec(steps=ENDLESS), "model": "ltx2-tiny"})
        wait_for(lambda: (at := service.board.get(long.id)) and at.step >= 1)
        service.cancel(long.id)
        assert ended(service, long.id).state is State.CANCELED
    finally:
        service.drain(0)
        service.close()


def test_more_replicas_finish_more_jobs_at_the_same_time(cluster, tmp_path):
    together = {}
    for workers in (1, 3):
        service = served(tmp_path / f"with{workers}", workers=workers)
        most = 0
        try:
            jobs = [
                service.add("job", {**spec(seed=seed, steps=30), "model": "ltx2-tiny"}).id
                for seed in range(6)
            ]
            service.start()
            while not all(service.store.get(job).state.ended for job in jobs):
                most = max(most, service.store.counts()[State.RUNNING])
                time.sleep(0.05)
            assert {service.store.get(job).state for job in jobs} == {State.SUCCEEDED}
        finally:
            service.drain(0)
            service.close()
        together[workers] = most
    # By the jobs that run at once, and not by the clock of a machine that does much else.
    assert together == {1: 1, 3: 3}


def test_a_spare_replica_starts_for_a_job_that_has_waited_and_is_freed_when_none_comes(
    cluster, tmp_path, monkeypatch
):
    from ltx2_core.serve import ray_runner

    monkeypatch.setattr(ray_runner, "_IDLE_S", 0.5)
    (tmp_path / "spare").mkdir()
    settings = settings_in(tmp_path / "spare", read_models(None))
    scale = ray_runner.Scale(least=1, most=2, gpus=0)
    service = Service(settings, ray_runner.runners(settings.replica(), scale))
    first, spare = (worker._runner for worker in service.workers)
    try:
        service.start()
        quick = service.add("job", {**spec(), "model": "ltx2-tiny"})
        assert ended(service, quick.id).state is State.SUCCEEDED
        assert spare._replica is None
        jobs = [service.add("job", {**spec(seed=seed, steps=150), "model": "ltx2-tiny"}) for seed in (1, 2)]
        wait_for(lambda: spare._replica is not None)
        assert {ended(service, job.id).state for job in jobs} == {State.SUCCEEDED}
        wait_for(lambda: spare._replica is None)
        assert first._replica is not None
    finally:
        service.drain(0)
        service.close()


def fresh_environment():
    """Variables for a process that starts a cluster, without those that a cluster of this one has set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**own, "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}


def test_a_signal_to_all_processes_of_the_server_lets_the_running_job_end(tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "ltx2_core.cli.main", "serve", "--port", "0", "--state", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--dtype", "float32", "--ray", "local"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=fresh_environment(),
    )
    try:
        lines = iter(process.stderr.readline, "")
        url = next(found.group() for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        threading.Thread(target=lambda: list(lines), daemon=True).start()
        with httpx.Client(base_url=url, timeout=MOST_S) as client:
            body = {"model": "ltx2-tiny", "request": {"prompt": "a ball", "seed": 3, **SMALL, "steps": 200}}
            job = client.post("/v1/jobs", json=body).json()["id"]
            wait_for(lambda: (at := client.get(f"/v1/jobs/{job}").json()["progress"]) and at["step"] >= 1)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(timeout=MOST_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    done = JobStore(tmp_path / "jobs.sqlite").get(job)
    assert (done.state, done.attempts) == (State.SUCCEEDED, 1), done.error


def test_the_batch_command_runs_on_ray(tmp_path):
    pytest.importorskip("ray")
    import json

    path = tmp_path / "jobs.jsonl"
    lines = [{"request": {"prompt": "a red circle", "seed": seed, **SMALL}} for seed in (1, 2)]
    path.write_text("\n".join(map(json.dumps, lines)))
    command = [sys.executable, "-m", "ltx2_core.cli.main", "batch", str(path), "-o", str(tmp_path / "out")]
    ran = subprocess.run(
        [*command, "--ray", "local", "--ray-workers", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=fresh_environment(),
    )
    assert ran.returncode == 0, ran.stderr
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2
