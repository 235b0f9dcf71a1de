"""How much of a job is done, and where its time went."""

from __future__ import annotations

import pytest

from ltx2_core.clock import Clock
from ltx2_core.run.job import Job, Part, job_parts
from ltx2_core.run.progress import Progress


def test_the_share_rises_to_one_through_text_stages_and_frames() -> None:
    job = Job((Part("text", 1), Part("stage 1", 6), Part("stage 2", 2), Part("decode", 1)))
    steps = [("text", 1, 2), ("text", 2, 2), ("image", 0, 1), ("stage 1", 0, 3), ("stage 1", 3, 3)]
    steps += [("upscale", 0, 1), ("stage 2", 1, 2), ("decode", 5, 10), ("decode", 10, 10)]
    done = [job.advance(Progress(stage=name, step=step, steps=all_)) for name, step, all_ in steps]
    assert done == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.7, 0.7, 0.8, 0.95, 1.0])


def test_windows_are_parts_of_one_name_and_reused_ones_are_done() -> None:
    job = Job((Part("text", 1), *(Part("stage 1", 2),) * 4, Part("decode", 1)))
    assert job.reach(3) == pytest.approx(0.5)
    assert job.advance(Progress(stage="text", step=1, steps=2)) == pytest.approx(0.5)
    assert job.advance(Progress(stage="stage 1", step=1, steps=2)) == pytest.approx(0.6)
    assert job.advance(Progress(stage="stage 1", step=2, steps=2)) == pytest.approx(0.7)
    assert job.advance(Progress(stage="stage 1", step=1, steps=2)) == pytest.approx(0.8)
    assert job.reach(5) == pytest.approx(0.9)


def test_the_parts_of_a_run_have_the_shares_of_its_forward_passes() -> None:
    from ltx2_core.run.request import Request
    from ltx2_core.run.stages import plan_stages

    stages = plan_stages(Request(prompt="a", width=128, height=128, num_frames=17, steps=4, stages=2))
    parts = job_parts(stages)
    assert [part.name for part in parts] == ["text", "stage 1", "stage 2", "decode, encode"]
    shares = [part.share for part in parts]
    assert shares[1] == 4 * len(stages[0].guidance.passes()) * (3 * 4 + stages[0].clip.audio_tokens)
    assert all(share > 0 for share in shares)
    assert len(job_parts(stages, windows=3)) == 8


def test_a_part_within_another_counts_alone(monkeypatch) -> None:
    now = 5.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock = Clock()
    with clock.timed("sampling"):
        now += 1
        with clock.timed("load"):
            now += 20
        now += 3
    assert clock.seconds() == {"load": 20, "sampling": 4}
    assert clock.total == 24


def test_stages_of_sampling_are_counted_each(monkeypatch) -> None:
    now = 5.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock = Clock()
    for stage, seconds in (("1", 2), ("upscale", 1), ("1", 5)):
        with clock.timed("sampling", stage=stage):
            now += seconds
            with clock.timed("load"):
                now += 20
    assert clock.stages() == {"1": 7, "upscale": 1}
    assert clock.seconds() == {"load": 60, "sampling": 8}
