"""Models stay loaded while their weights and the job at hand fit; those not used for longest are freed."""

from __future__ import annotations

import shutil

import pytest
import torch

from ltx2_core.run.execution import Execution
from ltx2_core.run.request import Request
from ltx2_core.serve.models import ServedModel
from ltx2_core.serve.pool import Holding, ModelPool, weights_of
from ltx2_core.serve.runner import Runner
from ltx2_core.serve.service import Service
from ltx2_core.serve.stored_job import State

from .conftest import SMALL, ended, settings_in, spec

IDS = "abc"


@pytest.fixture(scope="module")
def alike(models, tmp_path_factory) -> dict[str, ServedModel]:
    """Three models of equal files that lie in different places, so that each has networks of its own."""
    (one,) = models.values()
    made = {}
    for name in IDS:
        path = tmp_path_factory.mktemp(name) / "model.safetensors"
        shutil.copyfile(one.checkpoints[0], path)
        made[name] = ServedModel(
            id=name, base_model="tiny", checkpoints=(path,), text_encoder=one.text_encoder
        )
    return made


@pytest.fixture(autouse=True)
def no_colours(monkeypatch) -> None:
    """Without the colours of previews, which take longer than all else here."""
    monkeypatch.setattr("ltx2_core.serve.pool.fitted_to", lambda pipeline: None)


@pytest.fixture
def weights(alike) -> int:
    return weights_of(alike["a"].open(Execution.on("cpu", torch.float32)))


def used(pool: ModelPool, order: str) -> str:
    """Use models in this order; returns which are held then, the one not used for longest in front."""
    for name in order:
        request = Request(prompt="a ball", **SMALL)
        pool.make_room(name, pool.open(name).pipeline.stages(request))
    places = {model.checkpoints: name for name, model in pool._models.items()}
    return "".join(places[files.checkpoints] for files in pool._open)


@pytest.mark.parametrize(
    ("order", "most", "fit", "held"),
    [
        ("abc", None, None, "abc"),
        ("abcab", None, 3, "cab"),
        ("abc", None, 2, "bc"),
        ("abac", None, 2, "ac"),
        ("abab", None, 1, "b"),
        ("abc", 2, None, "bc"),
        ("abac", 2, 3, "ac"),
        ("abc", 3, 2, "bc"),
        ("abc", 1, None, "c"),
        # One that fits nowhere runs all the same, with nothing beside it.
        ("ab", None, 0, "b"),
    ],
)
def test_those_not_used_for_longest_are_freed_until_the_next_one_fits(alike, weights, order, most, fit, held):
    memory = None if fit is None else int((fit + 0.5) * weights)
    pool = ModelPool(alike, Execution.on("cpu", torch.float32), Holding(most=most, memory=memory))
    assert used(pool, order) == held
    assert pool.keep_only(order[-1]) == (len(held) > 1)
    assert used(pool, order[-1]) == order[-1]


def test_what_a_job_computes_in_leaves_less_for_models(alike, weights, monkeypatch):
    pool = ModelPool(alike, Execution.on("cpu", torch.float32))
    stages = pool.open("a").pipeline.stages(Request(prompt="a ball", **SMALL))
    large = {**SMALL, "width": 512, "height": 512, "num_frames": 121}
    larger = pool.open("a").pipeline.stages(Request(prompt="a ball", **large))
    working = pool._working(pool.open("a").pipeline, stages)
    assert 0 < working < pool._working(pool.open("a").pipeline, larger)
    monkeypatch.setattr("ltx2_core.serve.pool.device_memory", lambda device: int(2.3 * weights + working))
    pool.open("b")
    pool.make_room("b", stages)
    assert len(pool._open) == 2
    pool.make_room("b", larger)
    assert len(pool._open) == 1


def test_unknown_memory_holds_one_model(alike, monkeypatch):
    monkeypatch.setattr("ltx2_core.serve.pool.device_memory", lambda device: None)
    assert used(ModelPool(alike, Execution.on("cpu", torch.float32)), "ab") == "b"


@pytest.mark.slow
def test_two_models_stay_loaded_and_a_third_takes_the_place_of_one(tmp_path, alike, weights):
    holding = Holding(memory=int(2.5 * weights))
    service = Service(settings_in(tmp_path, alike, holding=holding))
    service.start()
    seconds = []
    for name in "ababca":
        job = service.store.add("job", {**spec(), "model": name})
        for worker in service.workers:
            worker.wake()
        done = ended(service, job.id)
        assert done.state is State.SUCCEEDED, done.error
        seconds.append(done.outcome["clips"][0]["seconds"].get("load", 0.0))
    # "load" is the time in which networks were loaded: none of those that were held.
    loaded = [one > 0.0005 for one in seconds]
    assert loaded == [True, True, False, False, True, True], seconds
    service.drain(0)
    service.close()


def test_a_clip_for_which_memory_runs_out_is_made_again_with_nothing_else_held(tmp_path, alike, monkeypatch):
    service = Service(settings_in(tmp_path, alike))
    (worker,) = service.workers
    runner: Runner = worker._runner
    runner.pool.open("b")
    made, make = [], ModelPool.make_room

    def fails_first(pool, model, stages) -> None:
        made.append([*pool._open])
        if len(made) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        make(pool, model, stages)

    monkeypatch.setattr(ModelPool, "make_room", fails_first)
    job = service.store.add("job", {**spec(), "model": "a"})
    service.start()
    assert ended(service, job.id).state is State.SUCCEEDED
    assert [len(held) for held in made] == [2, 1]
    # With nothing to free it fails, and the next one runs.
    made.clear()
    job = service.store.add("job", {**spec(seed=4), "model": "a"})
    worker.wake()
    done = ended(service, job.id)
    assert (done.state, len(made)) == (State.FAILED, 1)
    assert "out of memory" in done.error
    service.drain(0)
    service.close()
