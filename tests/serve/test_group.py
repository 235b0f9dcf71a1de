"""Two processes make the clip of one: the first one decides what both sample and when they stop."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import run_processes

from ltx2_core.media import read_video
from ltx2_core.run.distributed import Processes, divided
from ltx2_core.run.execution import Execution
from ltx2_core.run.request import Request
from ltx2_core.serve.group import Abandoned, Link, Member, is_lost_peer
from ltx2_core.serve.lost import JobFailed, ReplicaLost
from ltx2_core.serve.replica import ReplicaPlan, SentReports, received, run_job

from .conftest import spec

CPU = torch.device("cpu")


def plan_in(folder, models, *, count=1):
    execution = Execution.on("cpu", torch.float32, processes=Processes(count=count))
    return ReplicaPlan(state=Path(folder), models=tuple(models.values()), execution=execution)


def run_member(plan, store, jobs, stop_after):
    """Run jobs as one of two processes; returns the names of the last message of each."""
    link = Link(dist.FileStore(store, 2), dist.get_rank(), 2)
    runner = plan.runner(Member(device=CPU, processes=divided(1), link=link))
    ends = []
    for turn, (job_id, job) in enumerate(jobs, start=1):
        messages = []
        link.begin(turn)

        def stop(messages=messages):
            # Asked in the first process alone.
            return stop_after is not None and len(messages) > stop_after

        usable = run_job(runner, job_id, job, SentReports(messages.append, stop))
        ends.append(f"{'/'.join(messages[-1])} {usable}")
        # As a server waits for all before the next job.
        dist.barrier()
    return ends


def together(tmp_path, models, jobs, *, stop_after=None):
    plan = plan_in(tmp_path / "two", models, count=2)
    return run_processes(2, run_member, plan, str(tmp_path / "store"), jobs, stop_after)


def test_two_processes_make_the_clip_of_one_and_the_first_writes_it(tmp_path, models):
    refused = {**spec(), "clips": [{**spec()["clips"][0], "refused": "it cannot be made"}]}
    ends = together(tmp_path, models, [("clip", spec(cfg=3.0)), ("refused", refused), ("again", spec())])
    one = plan_in(tmp_path / "one", models).runner()
    assert run_job(one, "clip", spec(cfg=3.0), SentReports(lambda message: None, lambda: False))
    failed = "failed/lost/expected/trace True"
    assert ends == [["outcome True", failed, "outcome True"], ["outcome True"] * 3]
    paths = [tmp_path / name / "results" / "clip_output_0.mp4" for name in ("one", "two")]
    alone, both = (read_video(path).read() for path in paths)
    assert alone.shape == both.shape
    assert (alone.float() - both.float()).abs().mean() < 0.01


def test_both_stop_at_the_same_step_and_take_the_next_job(tmp_path, models):
    ends = together(tmp_path, models, [("long", spec(steps=500)), ("next", spec(steps=500))], stop_after=4)
    assert ends == [["stopped True"] * 2] * 2


def test_decisions_arrive_in_order_and_their_end_is_told():
    store = dist.HashStore()
    first, second = Link(store, 0, 2), Link(store, 1, 2)
    for turn in (1, 2):
        first.begin(turn)
        second.begin(turn)
        assert [first.decide(value) for value in (0, True)] == [0, True]
        first.end()
        assert [second.decide() for _ in range(2)] == [0, True]
        with pytest.raises(Abandoned):
            second.decide()


def test_a_process_waits_for_a_decision():
    store = dist.HashStore()
    links = [Link(store, rank, 2) for rank in range(2)]
    for link in links:
        link.begin(1)
    got = []
    waiting = threading.Thread(target=lambda: got.append(links[1].decide()))
    waiting.start()
    links[0].decide("late")
    waiting.join()
    assert got == ["late"]


def test_a_lost_process_of_the_group_is_told_from_a_job_that_fails():
    closed = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer")
    assert is_lost_peer(closed)
    assert not is_lost_peer(RuntimeError("shapes do not fit"))
    assert not is_lost_peer(ValueError("gloo"))
    message = {"failed": "no", "expected": False, "trace": ""}
    with pytest.raises(ReplicaLost, match="another process of the group is lost: no"):
        received({**message, "lost": True}, None)
    with pytest.raises(JobFailed):
        received({**message, "lost": False}, None)


def test_a_model_whose_heads_cannot_be_divided_is_refused(models):
    execution = Execution.on("cpu", torch.float32, processes=Processes(count=3))
    pipeline = models["ltx2"].open(execution)
    with pytest.raises(ValueError, match=r"3 processes cannot divide the \d+ heads"):
        pipeline.check_processes()


def test_one_of_a_group_needs_less_memory_than_one_alone(models):
    peaks = []
    for count in (1, 2):
        execution = Execution.on("cpu", torch.float32, processes=Processes(count=count))
        pipeline = models["ltx2"].open(execution)
        request = Request(prompt="", width=512, height=512, num_frames=121, stages=1)
        stages = pipeline.stages(pipeline.resolve(request))
        plan = pipeline.plan(stages, 2**40)
        peaks.append(next(stage for stage in plan.stages if stage.stage == "stage 1").activations)
    assert peaks[1] < 0.8 * peaks[0]
