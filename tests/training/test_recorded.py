"""A recorded training step computes the same gradients as the plain step, for any inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltx2_core.training.flow import FlowBatch, draw_flow, flow_loss
from ltx2_core.training.network import FlowNetwork
from ltx2_core.training.recorded import RecordedStep
from ltx2_core.training.tasks import FlowOptions, Task
from ltx2_core.training.text import TextBatch, batch_text
from ltx2_core.training.tiny.scales import smoke_scale
from ltx2_core.types import AVLatent


class Recomputing:
    """A recording that recomputes, like a CUDA graph: from the same input into the same output tensors."""

    def __init__(self, compute: Callable[[], Mapping[str, Tensor]], network: Any) -> None:
        self._compute, self._network = compute, network
        self.out = dict(compute())
        self._gradients = [p.grad for p in network.parameters()]

    def replay(self) -> None:
        for p in self._network.parameters():
            p.grad = None
        computed = self._compute()
        for own, p in zip(self._gradients, self._network.parameters(), strict=True):
            if own is not None:
                own.copy_(p.grad)
        for name, value in computed.items():
            self.out[name].copy_(value)


def steps(network, sample, states, record) -> tuple[RecordedStep[FlowBatch], Callable[..., Any]]:
    options = FlowOptions()

    def draw(generator: torch.Generator, step: int) -> FlowBatch:
        length = 64 if step % 3 == 2 else 32
        return draw_flow(sample, options, batch_text(states[:2]), generator, context_length=length)

    def loss(batch: FlowBatch) -> Mapping[str, Tensor]:
        return flow_loss(network, batch, options)

    step = RecordedStep(draw, loss, record=record, devices=("cpu",))
    return step, lambda generator, number: loss(draw(generator, number))


def test_replays_compute_the_gradients_of_the_step(network, sample, states) -> None:
    records = []

    def record(compute):
        records.append(Recomputing(compute, network))
        return records[-1]

    step, plain = steps(network, sample, states, record)
    for number in range(6):
        recorded = step(network, torch.Generator().manual_seed(number), number)
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        network.zero_grad()
        expected = plain(torch.Generator().manual_seed(number), number)
        assert not recorded["loss"].requires_grad
        for name, value in expected.items():
            torch.testing.assert_close(recorded[name], value.detach())
        expected["loss"].backward()
        for name, p in network.named_parameters():
            if p.grad is not None:
                torch.testing.assert_close(gradients[name], p.grad, msg=name)
        network.zero_grad()
    assert len(records) == 2
    assert step.problem is None


def test_steps_run_without_recording_after_it_has_failed(network, sample, states) -> None:
    def record(compute):
        raise RuntimeError("operation not permitted when stream is capturing")

    step, plain = steps(network, sample, states, record)
    for number in range(2):
        scalars = step(network, torch.Generator().manual_seed(number), number)
        assert scalars["loss"].requires_grad
        torch.testing.assert_close(scalars, plain(torch.Generator().manual_seed(number), number))
    assert "not permitted" in step.problem
    assert all(p.grad is None for p in network.parameters())


def test_running_out_of_memory_is_not_a_failure_to_record(network, sample, states) -> None:
    def record(compute):
        raise torch.OutOfMemoryError("CUDA out of memory")

    step, _ = steps(network, sample, states, record)
    with pytest.raises(torch.OutOfMemoryError):
        step(network, torch.Generator(), 0)


def test_a_step_uses_no_cpu_tensors_and_reads_no_values(monkeypatch) -> None:
    monkeypatch.setattr("ltx2_core.training.network.initialise", lambda network, seed: None)
    device = torch.device("cuda", 0)
    options = FlowOptions()
    with FakeTensorMode(allow_non_fake_inputs=True), device:
        network = FlowNetwork(smoke_scale().config, hidden_size=64, num_states=5)
        latent = AVLatent(torch.randn(2, 128, 2, 4, 4), torch.randn(2, 8, 10, 16))
        mask = AVLatent(torch.ones(2, 1, 2, 1, 1), torch.ones(2, 1, 10, 1))
        batch = FlowBatch(
            latent=latent,
            task=Task(sigma=torch.rand(2), mask=mask, conditioning=latent, noise=latent),
            text=TextBatch(torch.randn(2, 20, 5, 64), torch.ones(2, 20, dtype=torch.long)),
            context_length=32,
            fps=25.0,
            reference=torch.randn(2, 128, 2, 4, 4),
        )
        flow_loss(network, batch, options)  # Fills the caches.
        with OnlyOnDevice():
            scalars = flow_loss(network, batch, options)
    assert scalars["loss"].device == device


class OnlyOnDevice(TorchDispatchMode):
    """Asserts that all tensors of all operations are on the GPU, except numbers as tensors without axes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor) and leaf.ndim:
                assert leaf.device.type == "cuda", func
        return out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_of_a_step_computes_its_gradients(network, sample, states) -> None:
    network, latent = copy.deepcopy(network).cuda(), sample.latent.map(lambda t: t.cuda())
    sample = replace(sample, latent=latent, text=sample.text.map(lambda t: t.cuda()))
    unconditional, options = batch_text(states[:2]).map(lambda t: t.cuda()), FlowOptions()

    def draw(generator: torch.Generator, step: int) -> FlowBatch:
        return draw_flow(sample, options, unconditional, generator, context_length=32)

    step = RecordedStep(draw, lambda batch: flow_loss(network, batch, options))
    for number in range(4):
        scalars = step(network, torch.Generator().manual_seed(number), number)
        gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
        network.zero_grad()
        expected = flow_loss(network, draw(torch.Generator().manual_seed(number), number), options)
        expected["loss"].backward()
        torch.testing.assert_close(scalars["loss"], expected["loss"].detach())
        for own, p in zip(gradients, network.parameters(), strict=True):
            if p.grad is not None:
                assert own is not None
                torch.testing.assert_close(own, p.grad, rtol=1e-3, atol=1e-5)
    assert step.problem is None
