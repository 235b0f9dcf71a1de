"""The worker runs jobs by the library: same clips, progress, cancel, resumption after a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.cli.repeat import settings_of
from ltx2_core.media import VideoWriter, read_video
from ltx2_core.run.execution import Execution
from ltx2_core.run.progress import Stopped
from ltx2_core.serve import process_runner
from ltx2_core.serve.files import StateFolder
from ltx2_core.serve.lost import CannotStart, ReplicaLost
from ltx2_core.serve.models import read_models
from ltx2_core.serve.process_runner import ProcessRunner
from ltx2_core.serve.replica import SentReports, leaves_device_unusable
from ltx2_core.serve.runner import JobRunner
from ltx2_core.serve.service import Service
from ltx2_core.serve.store import JobStore
from ltx2_core.serve.stored_job import State
from ltx2_core.serve.worker import Worker
from ltx2_core.tiny import embedded_dir

from .conftest import ENDLESS, MOST_S, SMALL, ended, settings_in, spec, wait_for


def frames_of(path):
    return torch.cat(list(read_video(path).frames()))


def test_a_job_makes_the_clip_that_the_library_makes(service, models, tmp_path):
    job = service.add("job", spec())
    service.start()
    done = ended(service, job.id)
    assert done.state is State.SUCCEEDED, done.error
    (clip,) = done.outcome["clips"]
    assert {name: clip[name] for name in ("width", "height", "num_frames", "fps", "seed")} == {
        "width": 64,
        "height": 64,
        "num_frames": 9,
        "fps": 8,
        "seed": 3,
    }
    pipeline = models["ltx2"].open(Execution.on("cpu", torch.float32))
    pipeline("a red ball", seed=3, **SMALL).save(tmp_path / "plain.mp4")
    made, plain = service.folder.results / clip["file"], tmp_path / "plain.mp4"
    assert settings_of(made) == settings_of(plain)
    assert torch.equal(frames_of(made), frames_of(plain))
    # Nothing of the unfinished job is left.
    wait_for(lambda: not any((service.folder.path / "work").iterdir()))


def test_a_job_reports_stages_steps_and_the_time_that_remains(service):
    seen = []
    publish = service.board.set
    service.board.set = lambda job_id, snapshot: (seen.append(snapshot), publish(job_id, snapshot))
    job = service.add("job", spec(steps=3))
    service.start()
    assert ended(service, job.id).state is State.SUCCEEDED
    assert [one.step for one in seen if one.stage == "stage 1"] == [0, 1, 2, 3]
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert seen[-1].eta_s == 0
    wait_for(lambda: service.board.get(job.id) is None)


def test_a_running_job_is_canceled_between_steps_and_leaves_no_file(service):
    long = service.add("job", spec(steps=ENDLESS))
    after = service.add("job", spec())
    service.start()
    wait_for(lambda: (at := service.board.get(long.id)) and at.step >= 2)
    service.cancel(long.id)
    assert ended(service, long.id).state is State.CANCELED
    assert ended(service, after.id).state is State.SUCCEEDED
    assert {path.name.split("_")[0] for path in service.folder.results.iterdir()} == {after.id}


def test_a_job_that_cannot_run_fails_with_the_error_of_the_library(service):
    job = service.add("job", {**spec(), "model": "gone"})
    wrong = service.add("job", spec(image="missing.png"))
    service.start()
    assert ended(service, job.id).error == "this server no longer has the model 'gone'"
    assert "missing.png" in ended(service, wrong.id).error


@pytest.mark.parametrize(
    ("error", "unusable"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: as a user may write it"), False),
    ],
)
def test_errors_after_which_a_gpu_is_unusable_are_told_from_others(error, unusable):
    assert leaves_device_unusable(error) is unusable


def worker_of(service, run) -> Worker:
    """A worker of ``service`` whose runner is ``run(job, reports)``."""

    class Called(JobRunner):
        def run(self, job, reports):
            return run(job, reports)

        def close(self) -> None:
            pass

    return Worker(
        service.store,
        service.folder,
        Called(),
        board=service.board,
        meters=service.meters,
        job_s=MOST_S,
    )


def test_jobs_behind_one_that_broke_the_gpu_wait_for_another_process(service):
    def broken(job, reports):
        raise RuntimeError("CUDA error: device-side assert triggered")

    first, second = service.add("job", spec()), service.add("job", spec())
    worker = worker_of(service, broken)
    worker.start()
    worker.join(timeout=MOST_S)
    assert worker.broken
    assert "device-side assert" in service.store.get(first.id).error
    assert service.store.get(second.id).state is State.QUEUED


def test_a_job_that_no_process_could_begin_waits_and_does_not_count_as_tried(service):
    def none(job, reports):
        raise CannotStart("no such device")

    job = service.add("job", spec())
    worker = worker_of(service, none)
    worker.start()
    worker.join(timeout=MOST_S)
    assert worker.broken
    found = service.store.get(job.id)
    assert (found.state, found.attempts) == (State.QUEUED, 0)


def test_a_job_whose_process_is_lost_runs_again_and_fails_after_three_times(service):
    tried = []

    def lost(job, reports):
        tried.append(job.id)
        raise ReplicaLost("the process of the job ended with exit code -9")

    job = service.add("job", spec())
    worker = worker_of(service, lost)
    worker.start()
    done = ended(service, job.id)
    worker.drain()
    worker.join(timeout=MOST_S)
    assert tried == [job.id] * 3
    assert (done.state, done.attempts) == (State.FAILED, 3)
    assert "exit code -9" in done.error


@pytest.mark.slow
def test_a_process_of_its_own_makes_the_same_clip_also_after_it_was_killed(settings, tmp_path, models):
    runner = ProcessRunner(settings.replica())
    service = Service(settings, [runner])
    seen = []
    publish = service.board.set
    service.board.set = lambda job_id, snapshot: (seen.append(snapshot), publish(job_id, snapshot))
    try:
        # So long that both are still sampled when the process is killed and the second is cancelled.
        job = service.add("job", spec(steps=400))
        stopped = service.add("job", spec(steps=ENDLESS))
        wrong = service.add("job", spec(image="missing.png"))
        service.start()
        wait_for(lambda: any(one.stage == "stage 1" and one.step >= 1 for one in seen))
        assert runner.pid not in (None, os.getpid())
        os.kill(runner.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        done = ended(service, job.id)
        assert (done.state, done.attempts) == (State.SUCCEEDED, 2), done.error
        wait_for(lambda: (at := service.board.get(stopped.id)) and at.step >= 1)
        service.cancel(stopped.id)
        assert ended(service, stopped.id).state is State.CANCELED
        failed = ended(service, wrong.id)
        assert (failed.state, "missing.png" in failed.error) == (State.FAILED, True)
        counts = service.meters.read()
        assert counts.clips == 1
        assert counts.tokens > 0
        pipeline = models["ltx2"].open(Execution.on("cpu", torch.float32))
        plain = tmp_path / "plain.mp4"
        pipeline("a red ball", seed=3, **{**SMALL, "steps": 400}).save(plain)
        made = service.folder.results / done.outcome["clips"][0]["file"]
        assert torch.equal(frames_of(made), frames_of(plain))
    finally:
        service.drain(0)
        service.close()
    assert runner.pid is None


def test_a_job_that_takes_too_long_fails(settings):
    service = Service(replace(settings, retention=replace(settings.retention, job_s=0.0)))
    job = service.add("job", spec())
    service.start()
    assert ended(service, job.id).error == "Inference timed out after 0 seconds"
    service.drain(0)
    service.close()


def test_a_drained_service_requeues_a_job_that_takes_longer_and_resumes_it(settings):
    service = Service(settings)
    job = service.add("job", spec(steps=ENDLESS))
    service.start()
    wait_for(lambda: (at := service.board.get(job.id)) and at.step >= 1)
    service.drain(0)
    assert service.store.get(job.id).state is State.QUEUED
    service.close()
    again = Service(settings)
    assert again.store.claim().id == job.id
    again.close()


def test_a_job_that_is_told_to_stop_while_the_service_ends_does_not_run_again(settings):
    service = Service(settings)
    job = service.add("job", spec(steps=ENDLESS))
    service.start()
    wait_for(lambda: (at := service.board.get(job.id)) and at.step >= 1)
    # The moment in which the queue knows of it, and the worker does not yet.
    service.store.cancel(job.id)
    service.drain(0)
    assert service.store.get(job.id).state is State.CANCELED
    assert not any((service.folder.path / "work").iterdir())
    service.close()


def test_an_ended_job_is_not_marked_to_stop(service):
    job = service.add("job", spec())
    service.store.claim()
    service.store.cancel(job.id)
    service.store.canceled(job.id)
    assert service.cancel(job.id).state is State.CANCELED
    assert not service.board.is_canceled(job.id)


def serve(settings, total: int) -> None:
    """Run the jobs of a state folder until ``total`` of them have ended; for a process of its own."""
    service = Service(settings)
    service.start()
    wait_for(lambda: sum(n for state, n in service.store.counts().items() if state.ended) == total)


def queued(settings, *seeds):
    """The ids of new jobs in the queue of a state folder."""
    store = JobStore(StateFolder(settings.state).database)
    jobs = [store.add("job", spec(seed=seed)).id for seed in seeds]
    store.close()
    return jobs


def results(settings):
    """Id of each job -> (its state, the names of its files)."""
    folder = StateFolder(settings.state)
    store = JobStore(folder.database)
    found = {
        job.id: (job.state, [path.name for path in folder.results.glob(f"{job.id}*")]) for job in store.jobs()
    }
    store.close()
    return found


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@posix
@pytest.mark.slow
def test_a_service_that_is_killed_while_it_writes_decodes_again_and_samples_nothing_again(settings, tmp_path):
    from kill_points import run

    (job,) = queued(settings, 1)
    killed = run(serve, settings, 1, folder=tmp_path / "run1", kill_at="encode audio")
    assert killed.code == -signal.SIGKILL, killed.output
    again = run(serve, settings, 1, folder=tmp_path / "run2")
    assert again.code == 0, again.output
    assert "step" in killed.events
    assert "step" not in again.events
    assert results(settings) == {job: (State.SUCCEEDED, [f"{job}_output_0.mp4"])}


@posix
@pytest.mark.slow
def test_an_hdr_clip_whose_images_were_written_before_a_kill_is_made_again(tmp_path):
    from kill_points import run

    # The embedded set has such a LoRA.
    settings = settings_in(tmp_path, read_models(None))
    lora, metadata = (
        embedded_dir() / "loras" / "ltx2-tiny-edges-ic-lora.safetensors",
        {"hdr_transform": "true"},
    )
    save_file(load_file(lora), tmp_path / "ic.safetensors", {"reference_downscale_factor": "1", **metadata})
    with VideoWriter(tmp_path / "clip.mp4", width=64, height=64, fps=8) as writer:
        writer.write_frames(torch.zeros(9, 3, 64, 64, dtype=torch.uint8))
    clip = {
        "command": "hdr",
        "request": {"prompt": "a red ball", "seed": 3},
        "source": str(tmp_path / "clip.mp4"),
        "loras": [[str(tmp_path / "ic.safetensors"), 1.0]],
    }
    store = JobStore(StateFolder(settings.state).database)
    job = store.add("job", {"model": "ltx2", "clips": [clip]}).id
    store.close()
    killed = run(serve, settings, 1, folder=tmp_path / "run1", kill_at="flush")
    assert killed.code == -signal.SIGKILL, killed.output
    files = sorted(path.name for path in (settings.state / "results").iterdir())
    assert f"{job}_output_0_exr" in files, files
    again = run(serve, settings, 1, folder=tmp_path / "run2")
    assert again.code == 0, again.output
    assert "step" not in again.events
    state, names = results(settings)[job]
    assert state is State.SUCCEEDED
    assert sorted(names) == [f"{job}_output_0.mp4", f"{job}_output_0_exr"]


@posix
@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_a_service_that_is_killed_anywhere_makes_each_clip_once_and_the_same(settings, tmp_path, share):
    from kill_points import run

    jobs = queued(settings, 1, 2)
    whole = replace(settings, state=tmp_path / "whole")
    same = queued(whole, 1, 2)
    undisturbed = run(serve, whole, 2, folder=tmp_path / "run0")
    assert undisturbed.code == 0, undisturbed.output
    kill_at = int(share * len(undisturbed.events))
    killed = run(serve, settings, 2, folder=tmp_path / "run1", kill_at=kill_at)
    assert killed.code == -signal.SIGKILL, killed.output
    again = run(serve, settings, 2, folder=tmp_path / "run2")
    assert again.code == 0, again.output
    assert results(settings) == {job: (State.SUCCEEDED, [f"{job}_output_0.mp4"]) for job in jobs}
    for job, other in zip(jobs, same, strict=True):
        one = settings.state / "results" / f"{job}_output_0.mp4"
        two = whole.state / "results" / f"{other}_output_0.mp4"
        assert one.read_bytes() == two.read_bytes()
    # At most the clip that was being sampled is sampled again, and no clip is sampled twice as a whole.
    steps = [ran.events.count("step") for ran in (undisturbed, killed, again)]
    assert steps[1] + steps[2] <= steps[0] * 1.5


def test_a_job_of_another_process_is_told_to_stop_before_it_reports_anything(settings, monkeypatch):
    monkeypatch.setattr(process_runner, "_LOOK_S", MOST_S)
    runner = ProcessRunner(settings.replica())
    ours, theirs = multiprocessing.Pipe()
    runner._connection = ours
    stopping = threading.Event()
    reports = SentReports(lambda _: None, stopping.is_set)
    # One before the job begins is no reason to stop it.
    runner.look()
    with ThreadPoolExecutor() as pool:
        followed = pool.submit(runner._followed, ours, reports)
        wait_for(lambda: not runner._looking.is_set())
        stopping.set()
        runner.look()
        assert json.loads(theirs.recv_bytes()) == {"stop": True}
        theirs.send_bytes(b'{"stopped": true}')
        with pytest.raises(Stopped):
            followed.result()
