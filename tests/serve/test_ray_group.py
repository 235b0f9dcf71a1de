"""A group of processes on a local Ray makes the clips of one, stops together and is replaced whole."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
from ltx2_core.run.distributed import Processes
from ltx2_core.serve.service import Service
from ltx2_core.serve.stored_job import State

from .conftest import ENDLESS, ended, settings_in, spec, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Ray's support of Windows is experimental"),
    pytest.mark.filterwarnings("ignore"),
]

GUIDED = {"cfg": 3.0, "steps": 4}


@pytest.fixture(scope="module")
def cluster():
    # Other programs may leave this machine little memory, for which Ray would end replicas, and little time,
    # of which replicas would get what is left.
    ray = pytest.importorskip("ray")
    alone = {"memory_monitor_refresh_ms": 0, "worker_niceness": 0}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _system_config=alone)
    yield ray
    ray.shutdown()


@pytest.fixture
def service_of(cluster, models, tmp_path):
    """A function that makes a service whose replica is a group of ``count`` processes."""
    from ltx2_core.serve.ray_runner import Scale, runners

    services = []

    def make(count, groups=1, **scale):
        folder = tmp_path / f"of{count}by{groups}-{len(services)}"
        folder.mkdir()
        settings = settings_in(folder, models, processes=Processes(count=count, groups=groups))
        least, most = scale.get("least", 1), scale.get("most", 1)
        made = Service(settings, runners(settings.replica(), Scale(least=least, most=most, gpus=0)))
        services.append(made)
        made.start()
        return made

    yield make
    for service in services:
        service.drain(0)
        service.close()


def frames(service, job):
    return read_video(service.folder.results / job.outcome["clips"][0]["file"]).read()


def add(service, **fields):
    return service.add("job", spec(**fields))


def sampling(service, job):
    return wait_for(lambda: (at := service.board.get(job.id)) and at.stage == "stage 1" and at.step >= 1)


def kill(cluster, service, member):
    """Kill one process of the group of the only replica."""
    actor = service.workers[0]._runner._replica.actors[member]
    os.kill(cluster.get(actor.pid.remote()), signal.SIGKILL)


@pytest.mark.parametrize(("count", "groups"), [(2, 1), (2, 2)])
def test_a_group_makes_the_clip_of_one_process(service_of, count, groups):
    one, group = service_of(1), service_of(count, groups)
    jobs = [(service, add(service, **GUIDED)) for service in (one, group)]
    alone, together = (ended(service, job.id) for service, job in jobs)
    assert (alone.state, together.state) == (State.SUCCEEDED, State.SUCCEEDED), together.error
    first, second = frames(one, alone), frames(group, together)
    assert first.shape == second.shape
    assert (first.float() - second.float()).abs().mean() < 0.01


@pytest.mark.parametrize("member", [0, 1])
def test_a_job_of_a_group_that_loses_a_process_is_finished_by_another_group(cluster, service_of, member):
    service = service_of(2)
    job = add(service, steps=60)
    sampling(service, job)
    kill(cluster, service, member)
    done = ended(service, job.id)
    assert (done.state, done.attempts) == (State.SUCCEEDED, 2), done.error
    whole = ended(service, add(service, steps=60).id)
    assert (whole.state, whole.attempts) == (State.SUCCEEDED, 1), whole.error
    assert frames(service, done).equal(frames(service, whole))


def test_a_group_stops_together_and_makes_the_next_job(service_of):
    service = service_of(2)
    job = add(service, steps=ENDLESS)
    sampling(service, job)
    before = service.workers[0]._runner._replica
    service.cancel(job.id)
    assert ended(service, job.id).state is State.CANCELED
    following = ended(service, add(service).id)
    assert following.state is State.SUCCEEDED, following.error
    assert service.workers[0]._runner._replica is before


def test_a_process_that_is_lost_between_two_jobs_is_replaced(cluster, service_of):
    service = service_of(2)
    assert ended(service, add(service).id).state is State.SUCCEEDED
    kill(cluster, service, 1)
    following = ended(service, add(service).id)
    assert (following.state, following.attempts) == (State.SUCCEEDED, 1), following.error


def test_a_process_that_hangs_does_not_hold_a_job_that_is_to_stop(cluster, service_of, monkeypatch):
    from ltx2_core.serve import ray_replica

    monkeypatch.setattr(ray_replica, "_STOP_S", 1.0)
    monkeypatch.setattr(ray_replica, "_OTHERS_S", 1.0)
    service = service_of(2)
    job = add(service, steps=ENDLESS)
    sampling(service, job)
    actor = service.workers[0]._runner._replica.actors[1]
    os.kill(cluster.get(actor.pid.remote()), signal.SIGSTOP)
    service.cancel(job.id)
    assert ended(service, job.id).state is State.CANCELED
    assert ended(service, add(service).id).state is State.SUCCEEDED


@pytest.mark.parametrize("command", ["long", "extend", "sound", "refused"])
def test_a_group_makes_every_kind_of_clip(service_of, command, tmp_path):
    service = service_of(2)
    first = ended(service, add(service, num_frames=41).id)
    assert first.state is State.SUCCEEDED, first.error
    source = str(service.folder.results / first.outcome["clips"][0]["file"])
    clips = {
        "long": {
            "request": {
                "prompt": "a red ball",
                "seed": 3,
                "width": 64,
                "height": 64,
                "num_frames": 41,
                "steps": 2,
            },
            "own": {"window_frames": 25, "overlap_frames": 16},
        },
        "extend": {
            "request": {"prompt": "more", "seed": 3, "steps": 2},
            "own": {"frames": 8},
            "source": source,
        },
        "sound": {
            "request": {"prompt": "rain", "seed": 3, "steps": 2},
            "own": {"window_frames": 25},
            "source": source,
        },
        "refused": {
            "request": {"prompt": "more", "seed": 3},
            "own": {"frames": 8},
            "source": str(tmp_path / "none.mp4"),
        },
    }
    clip = {"command": "extend" if command == "refused" else command, "loras": [], **clips[command]}
    done = ended(service, service.add("job", {"model": "ltx2", "clips": [clip]}).id)
    assert done.state is (State.FAILED if command == "refused" else State.SUCCEEDED), done.error
    following = ended(service, add(service).id)
    assert (following.state, following.attempts) == (State.SUCCEEDED, 1), following.error


def test_saved_latents_are_decoded_by_the_first_process_alone(cluster, service_of):
    service = service_of(2)
    job = add(service, num_frames=121, width=256, height=256)
    work = service.folder.work(job.id)
    wait_for(lambda: list(work.glob("*.latents.safetensors")))
    kill(cluster, service, 0)
    done = ended(service, job.id)
    assert (done.state, done.attempts) == (State.SUCCEEDED, 2), done.error
    assert done.outcome["clips"][0]["seconds"].get("sampling", 0) == 0


def test_a_spare_group_starts_for_a_job_that_has_waited(service_of):
    service = service_of(2, least=1, most=2)
    jobs = [add(service, seed=seed, steps=150) for seed in (1, 2)]
    most = 0
    while not all(service.store.get(job.id).state.ended for job in jobs):
        most = max(most, service.store.counts()[State.RUNNING])
        time.sleep(0.05)
    assert most == 2


def test_a_group_that_cannot_divide_a_model_is_refused_before_anything_is_loaded(cluster, tmp_path):
    command = ["serve", "--state", str(tmp_path / "state"), "--ray", "local", "--ray-group", "3"]
    ran = CliRunner().invoke(main, command)
    assert ran.exit_code != 0
    assert "--ray-group: model 'ltx2': 3 processes cannot divide the" in ran.output


def test_a_group_larger_than_any_machine_is_refused(cluster):
    from ltx2_core.serve.ray_runner import check_room

    with pytest.raises(
        ValueError, match=r"--ray-group 8 needs 8 processors in one machine, and .* 4 at most"
    ):
        check_room(8, 0)
    with pytest.raises(ValueError, match="--ray-group 2 needs 2 GPUs in one machine"):
        check_room(2, 1)
    check_room(4, 0)
