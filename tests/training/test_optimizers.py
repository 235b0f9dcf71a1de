"""Optimizers by name: what is there trains and resumes alike, what is missing is named."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from ltx2_core.training.eight_bit import AdamW8bit, levels, pack, unpack
from ltx2_core.training.optimizer_choice import Group, check_optimizer, optimizer_of
from ltx2_core.training.optimizer_names import OPTIMIZERS, OptimizerOptions
from ltx2_core.training.rounding import RoundedAdamW, round_at_random
from ltx2_core.training.state import TrainingState

LIBRARY = {"prodigy": "prodigyopt"}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 80))


def run(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
        loss = (net(x) - x.repeat(1, 2)[:, :80]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def build(name: str, net: nn.Module) -> torch.optim.Optimizer:
    first, second = ([*layer.parameters()] for layer in (net[0], net[2]))
    groups = [
        Group(first, 1.0 if name == "prodigy" else 1e-2),
        Group(second, 1.0 if name == "prodigy" else 5e-3),
    ]
    if name == "muon":
        groups = [Group([*first, *second], 1e-2)]
    return optimizer_of(name, groups, OptimizerOptions())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_lowers_the_loss_and_resumes_bit_for_bit(name, tmp_path) -> None:
    if find_spec(LIBRARY.get(name, "torch")) is None:
        pytest.skip(f"{LIBRARY[name]} is not installed")
    whole = model()
    optimizer = build(name, whole)
    # Prodigy begins with a tiny step, until it has an estimate.
    steps = 150 if name == "prodigy" else 30
    losses = run(whole, optimizer, range(steps))
    assert losses[-1] < 0.9 * losses[0]
    first, path = model(), tmp_path / "state.safetensors"
    optimizer = build(name, first)
    run(first, optimizer, range(12))
    TrainingState(model=first, optimizer=optimizer, averaged={}, seed=0).save(path)
    second = model()
    optimizer = build(name, second)
    TrainingState(model=second, optimizer=optimizer, averaged={}, seed=0).load(path)
    run(second, optimizer, range(12, steps))
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_that_is_missing_is_named(name, monkeypatch) -> None:
    monkeypatch.setattr("ltx2_core.training.optimizer_choice.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"optimizer={name} needs {LIBRARY[name]}: pip install"):
        check_optimizer(name)


def test_random_rounding_is_right_on_average_and_exact_for_what_needs_none() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.full((20000,), 1 + 2.0**-10)
    rounded = round_at_random(value, generator).float()
    # The neighbours in bfloat16 are 1 and 1 + 2^-7.
    assert set(rounded.tolist()) == {1.0, 1 + 2.0**-7}
    assert float(rounded.mean()) == pytest.approx(1 + 2.0**-10, abs=1e-4)
    exact = torch.tensor([0.0, -0.5, 3.0, float("inf"), float("-inf")])
    assert torch.equal(round_at_random(exact, generator).float(), exact)
    assert round_at_random(torch.tensor([float("nan")]), generator).isnan().all()


def test_adamw_that_rounds_is_adamw_on_float32_weights() -> None:
    nets = model(), model()
    options = OptimizerOptions(betas=(0.8, 0.95), weight_decay=0.1)
    ours = RoundedAdamW([{"params": [*nets[0].parameters()], "lr": 1e-2}], options)
    theirs = torch.optim.AdamW(nets[1].parameters(), lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1)
    for net, optimizer in zip(nets, (ours, theirs), strict=True):
        run(net, optimizer, range(10))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_averages_in_eight_bits_take_a_quarter_and_lead_nearly_where_those_in_float32_do() -> None:
    nets = model(), model()
    options = OptimizerOptions(betas=(0.9, 0.99), weight_decay=0.1)
    ours = AdamW8bit([{"params": [*nets[0].parameters()], "lr": 1e-3}], options)
    whole = torch.optim.AdamW(nets[1].parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    first, second = (run(net, one, range(30)) for net, one in zip(nets, (ours, whole), strict=True))
    assert first == pytest.approx(second, rel=0.01)
    held, plain = (
        sum(value.nbytes for value in one.state[net[2].weight].values() if torch.is_tensor(value))
        for net, one in zip(nets, (ours, whole), strict=True)
    )
    assert held < plain / 3.5


@pytest.mark.parametrize("signed", [True, False])
def test_a_level_is_packed_exactly_and_other_values_become_the_nearest_one(signed) -> None:
    table = levels(signed)
    assert table[-1] == 1
    assert bool((table[1:] > table[:-1]).all())
    blocks = torch.cat([table * 3, table * 1e-6, torch.zeros(10)])
    torch.testing.assert_close(unpack(*pack(blocks, signed=signed), signed=signed), blocks, rtol=1e-6, atol=0)
    values = torch.rand(256, generator=torch.Generator().manual_seed(0))
    values[0] = 1
    nearest = (values[:, None] - table).abs().amin(dim=1)
    found = (unpack(*pack(values, signed=signed), signed=signed) - values).abs()
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-7)
