"""The worker runs jobs by the library: same clips, progress, cancel, resumption after a kill."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

import pytest
import torch

from ltx2_core.cli.repeat import settings_of
from ltx2_core.media import read_video
from ltx2_core.run.execution import Execution
from ltx2_core.serve.files import StateFolder
from ltx2_core.serve.service import Service
from ltx2_core.serve.store import JobStore, State

from .conftest import SMALL, ended, spec, wait_for


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
    long = service.add("job", spec(steps=200))
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


def test_a_job_that_takes_too_long_fails(settings):
    service = Service(replace(settings, keeping=replace(settings.keeping, job_s=0.0)))
    job = service.add("job", spec())
    service.start()
    assert ended(service, job.id).error == "Inference timed out after 0 seconds"
    service.drain(0)
    service.close()


def test_a_drained_service_requeues_a_job_that_takes_longer_and_resumes_it(settings):
    service = Service(settings)
    job = service.add("job", spec(steps=200))
    service.start()
    wait_for(lambda: (at := service.board.get(job.id)) and at.step >= 1)
    service.drain(0)
    assert service.store.get(job.id).state is State.QUEUED
    service.close()
    again = Service(settings)
    assert again.store.claim().id == job.id
    again.close()


def serve(settings, total: int) -> None:
    """Run the jobs of a state folder until ``total`` of them have ended; for a process of its own."""
    service = Service(settings)
    service.start()
    wait_for(lambda: sum(n for state, n in service.store.counts().items() if state.ended) == total)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    "kill_at",
    [
        # Sampling, saving latents, decoding, and after the clip is written.
        pytest.param("encode audio", id="encoding"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("step", "write", "renamed", "flush")),
    ],
)
def test_a_killed_service_runs_each_job_once(settings, tmp_path, kill_at):
    from kill_points import run

    store = JobStore(StateFolder(settings.state).database)
    jobs = [store.add("job", spec(seed=seed)) for seed in (1, 2)]
    store.close()
    whole = replace(settings, state=tmp_path / "whole")
    other = JobStore(StateFolder(whole.state).database)
    for job in jobs:
        other.add("job", dict(job.spec), job_id=job.id)
    other.close()
    undisturbed = run(serve, whole, 2, folder=tmp_path / "run0")
    assert undisturbed.code == 0, undisturbed.output
    killed = run(serve, settings, 2, folder=tmp_path / "run1", kill_at=undisturbed.events.index(kill_at))
    assert killed.code == -signal.SIGKILL, killed.output
    again = run(serve, settings, 2, folder=tmp_path / "run2")
    assert again.code == 0, again.output
    store = JobStore(StateFolder(settings.state).database)
    assert {job.state for job in store.jobs()} == {State.SUCCEEDED}
    for job in jobs:
        names = [path.name for path in StateFolder(settings.state).results.glob(f"{job.id}*")]
        assert names == [f"{job.id}_output_0.mp4"]
        one, two = (StateFolder(s.state).results / names[0] for s in (settings, whole))
        assert one.read_bytes() == two.read_bytes()
    # What was sampled before the kill is not sampled again.
    steps = again.events.count("step")
    assert steps == undisturbed.events.count("step") // (1 if kill_at == "step" else 2)
    store.close()
