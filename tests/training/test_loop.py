"""The training loop: resuming, determinism, its state file, the schedule and the optimizer."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from ltx2_core.training.history import History, plot
from ltx2_core.training.loop import (
    Elapsed,
    LoopOptions,
    averaged_weights,
    step_generator,
    train,
    warmup_stable_decay,
)
from ltx2_core.training.optimisers import Muon, orthogonalised

STEPS = 12
QUIET = LoopOptions(progress=False, save_every_s=0, log_every_s=0, ema=0.9)


def toy_step(model: nn.Module, generator: torch.Generator, step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 3, 5, 5, generator=generator)
    return {"loss": (model(x) - x.flip(1)).square().mean()}


def toy(path: Path, *, steps: int = STEPS, seed: int = 3, step_fn=toy_step, optimizer=Muon, options=QUIET):
    """Train a small convolutional network; returns its weights."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 3, 3, padding=1))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.2, generator=generator)
    history = train(
        step_fn,
        model,
        optimizer(model.parameters(), lr=0.02),
        warmup_stable_decay(STEPS, warmup=3),
        path,
        total_steps=steps,
        seed=seed,
        options=options,
    )
    return model.state_dict(), history


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", [Muon, torch.optim.AdamW])
def test_a_run_in_two_pieces_equals_one_run_bit_for_bit(tmp_path, optimizer):
    whole, _ = toy(tmp_path / "whole.safetensors", optimizer=optimizer)
    toy(tmp_path / "pieces.safetensors", steps=5, optimizer=optimizer)
    pieces, history = toy(tmp_path / "pieces.safetensors", optimizer=optimizer)
    assert equal(whole, pieces)
    averaged = [averaged_weights(tmp_path / f"{name}.safetensors") for name in ("whole", "pieces")]
    assert equal(*averaged)
    assert [step for step, _ in history.curves["loss"]] == list(range(1, STEPS + 1))


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    script = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path.cwd())]!r}\n"
        "from pathlib import Path; import torch; from test_loop import die_at\n"
        # The number of threads changes how sums are split and rounded; the tests here run on one.
        "torch.set_num_threads(1); die_at(Path(sys.argv[1]), 7)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed.safetensors")], timeout=1800
    )
    assert killed.returncode == -signal.SIGKILL
    resumed, history = toy(tmp_path / "killed.safetensors")
    whole, _ = toy(tmp_path / "whole.safetensors")
    assert equal(resumed, whole)
    assert len(history.curves["loss"]) == STEPS
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def die_at(path: Path, last: int) -> None:
    def step_fn(model, generator, step):
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return toy_step(model, generator, step)

    toy(path, step_fn=step_fn)


def test_the_seed_decides_the_result(tmp_path):
    first, _ = toy(tmp_path / "a.safetensors", seed=1)
    again, _ = toy(tmp_path / "b.safetensors", seed=1)
    other, _ = toy(tmp_path / "c.safetensors", seed=2)
    assert equal(first, again)
    assert not equal(first, other)


def test_global_random_state_does_not_matter(tmp_path):
    torch.manual_seed(5)
    first, _ = toy(tmp_path / "a.safetensors")
    torch.manual_seed(6)
    second, _ = toy(tmp_path / "b.safetensors")
    assert equal(first, second)


def test_each_step_and_rank_has_its_own_randomness():
    draws = {
        float(torch.rand((), generator=step_generator(seed, step, rank)))
        for seed in (0, 1)
        for step in (0, 1, 10)
        for rank in (0, 1)
    }
    assert len(draws) == 12


def test_the_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    toy(path, steps=2)
    with pytest.raises(ValueError, match=r"seed is 3, not 4"):
        toy(path, seed=4)
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="another network"):
        train(
            toy_step,
            model,
            Muon(model.parameters()),
            lambda _: 1.0,
            path,
            total_steps=3,
            seed=3,
            options=QUIET,
        )


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_file(tmp_path):
    path = tmp_path / "state.safetensors"
    toy(path, steps=4)
    before = path.read_bytes()

    def broken(model, generator, step):
        return {"loss": toy_step(model, generator, step)["loss"] * math.nan}

    with pytest.raises(FloatingPointError, match="step 5"):
        toy(path, step_fn=broken)
    assert path.read_bytes() == before


def test_a_run_stops_at_its_time_limit_and_can_be_resumed(tmp_path):
    path = tmp_path / "state.safetensors"
    stopped = LoopOptions(progress=False, max_seconds=0)
    _, history = toy(path, options=stopped)
    assert history.curves.get("loss", []) == []
    assert not path.exists()
    weights, _ = toy(path)
    whole, _ = toy(tmp_path / "whole.safetensors")
    assert equal(weights, whole)


def test_evaluation_uses_averaged_weights_and_restores_the_model(tmp_path):
    means = []
    model = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(model.weight)
    options = LoopOptions(progress=False, log_every_s=0, evaluate_every_s=0, ema=0.5)

    def step_fn(model, generator, step):
        return {"loss": -model.weight.sum()}

    def evaluate(model, step):
        means.append(float(model.weight.detach().mean()))
        return {"figure": means[-1]}

    history = train(
        step_fn,
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        lambda _: 1.0,
        tmp_path / "s.safetensors",
        total_steps=3,
        seed=0,
        options=options,
        evaluate=evaluate,
    )
    # The decay of the average is 1/10, 2/11 and 3/12 in the first steps.
    averages = [0.9]
    for step in (1, 2):
        decay = (1 + step) / (10 + step)
        averages.append(averages[-1] * decay + (step + 1) * (1 - decay))
    assert means == pytest.approx(averages)
    assert history.curves["figure"] == [(i + 1, pytest.approx(a)) for i, a in enumerate(averages)]
    assert float(model.weight.detach().mean()) == pytest.approx(3)


def test_the_schedule_rises_is_constant_and_falls():
    factor = warmup_stable_decay(100, warmup=10, decay=0.3)
    values = [factor(step) for step in range(101)]
    assert values[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(values[10:70]) == {1.0}
    assert values[100] == 0
    assert all(a > b for a, b in itertools.pairwise(values[70:]))


def test_the_schedule_follows_the_clock_where_it_is_ahead_of_the_steps(monkeypatch):
    now = 50.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    elapsed = Elapsed(100, seconds=10)
    factor = warmup_stable_decay(elapsed, warmup=10, decay=0.4)
    assert factor(20) == 1
    assert elapsed.share(20) == 0.2
    now = 58.0
    assert factor(20) == pytest.approx(0.5)
    assert factor(90) == pytest.approx(0.25)
    now = 61.0
    assert factor(20) == 0
    assert elapsed.share(20) == 1


@pytest.mark.parametrize("shape", [(8, 8), (8, 50), (50, 8), (1, 9)])
def test_orthogonalising_brings_every_singular_value_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_curves_are_drawn(tmp_path):
    history = History()
    assert not plot(history, tmp_path / "none.png")
    history.add(1, {"loss": 1.0, "psnr": 3.0})
    history.add(2, {"loss": 0.5})
    history.add(3, {"loss": float("nan"), "broken": float("inf")})
    assert plot(history, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        one, *others = (image.crop((72, 200 * n, 700, 200 * (n + 1))).getcolors() for n in range(3))
    assert len(one) > 2, "a line and a frame"
    assert len(others) == 2
