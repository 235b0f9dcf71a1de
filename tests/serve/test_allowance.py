"""How large a job may be: by the memory plan of its model, or by what the server was told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltx2_core.run.execution import Execution
from ltx2_core.run.request import Request
from ltx2_core.serve.allowance import MOST_STEPS, allowance_of
from ltx2_core.serve.service import Limits, Service

from .conftest import SMALL, application_client, settings_in


def opened(models, megabytes: int):
    """A pipeline of the tiny model whose networks may take so much memory."""
    return models["ltx2"].open(replace(Execution.on("cpu"), max_memory=megabytes * 10**6))


@pytest.mark.parametrize("megabytes", [8, 20, 100])
def test_the_most_work_is_that_of_the_longest_clip_whose_plan_fits(models, megabytes):
    pipeline = opened(models, megabytes)
    allowed = allowance_of(pipeline)
    clip = allowed.largest
    assert allowed.work == clip.width * clip.height * clip.frames * MOST_STEPS

    def fits(frames: int) -> bool:
        request = Request(prompt="", width=clip.width, height=clip.height, num_frames=frames, fps=24)
        return pipeline.plan(pipeline.stages(request), megabytes * 10**6).fits

    assert fits(clip.frames)
    # To within a sixty-fourth.
    assert not fits(round(clip.frames * 66 / 64) + 8)
    assert allowed.refusal(allowed.work) is None
    assert f"{clip.frames} frames of {clip.width}x{clip.height}" in allowed.refusal(allowed.work * 1.01)


def small_job(client, **fields) -> tuple[int, str]:
    body = {"model": "ltx2", "request": {"prompt": "a ball", **SMALL, **fields}}
    answer = client.post("/v1/jobs", json=body)
    error = answer.json().get("error")
    return answer.status_code, "" if error is None else error["message"]


def test_a_job_is_refused_by_the_memory_plan_before_it_is_queued(tmp_path, models):
    settings = settings_in(tmp_path, models)
    service = Service(replace(settings, execution=replace(settings.execution, max_memory=12 * 10**6)))
    with application_client(service) as client:
        largest = service.checkers.allowance("ltx2").largest
        assert small_job(client)[0] == 202
        status, why = small_job(client, steps=MOST_STEPS * largest.frames)
        assert (status, f"{largest.frames} frames of " in why) == (422, True), why
        # A clip that does not fit at any number of steps is told one that does.
        status, why = small_job(client, num_frames=129)
        assert status == 422
        assert "which fit" in why
        plan = client.post(
            "/v1/plan",
            json={"model": "ltx2", "request": {"prompt": "a", **SMALL, "steps": MOST_STEPS * largest.frames}},
        ).json()
        assert not plan["allowed"]
        assert len(service.store.jobs()) == 1
    service.close()


def test_what_the_server_was_told_takes_the_place_of_the_plan(tmp_path, models):
    service = Service(settings_in(tmp_path, models, limits=Limits(work=64 * 64 * 9 * 3)))
    with application_client(service) as client:
        assert small_job(client, steps=3)[0] == 202
        status, why = small_job(client, steps=4)
        assert (status, "this server allows 1.11e+05: request fewer" in why) == (422, True), why
    service.close()
