"""The pretended device refuses what CUDA refuses, and counts what makes the CPU wait."""

from __future__ import annotations

import pytest
import torch
from fake_cuda import pretend
from fake_tensor import DeviceError


@pytest.fixture
def device():
    with pretend() as device:
        yield device


REFUSED = {
    "add": lambda a, b: a + b,
    "matmul": lambda a, b: torch.ones(3, 3, device="cuda") @ b,
    "cat": lambda a, b: torch.cat((a, b)),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "write to the CPU": lambda a, b: b.add_(a),
    "write to a number of the CPU": lambda a, b: b[0].add_(a[0]),
    "index a tensor of the CPU": lambda a, b: b[torch.tensor([0], device="cuda")],
    "attention": lambda a, b: torch.nn.functional.scaled_dot_product_attention(
        *(t.view(1, 1, 3, 1) for t in (a, b, a))
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_of_two_devices_are_refused(device, case):
    with pytest.raises(DeviceError, match="cuda:0"):
        REFUSED[case](torch.ones(3, device="cuda"), torch.ones(3))


def test_numpy_reads_no_tensor_of_the_device(device):
    with pytest.raises(TypeError, match="cuda:0"):
        torch.ones(3, device="cuda").numpy()


WAITS = {
    "item": lambda a, b: a.sum().item(),
    "bool": lambda a, b: bool((a > 0).all()),
    "tolist": lambda a, b: a.tolist(),
    "nonzero": lambda a, b: a.nonzero(),
    "Python data": lambda a, b: torch.tensor([1.0, 2.0], device="cuda"),
    "to the CPU": lambda a, b: a.cpu(),
    "from the CPU": lambda a, b: b.to("cuda"),
    "copy into": lambda a, b: a.copy_(b),
    "mask": lambda a, b: a[a > 0],
    "index of the CPU": lambda a, b: a[torch.tensor([0])],
    "synchronize": lambda a, b: torch.cuda.synchronize(),
}
QUIET = {
    "number": lambda a, b: a * 2 + b[0],
    "non_blocking": lambda a, b: b.to("cuda", non_blocking=True),
    "non_blocking, to another": torch.inference_mode()(lambda a, b: b.to(a, non_blocking=True)),
    "slice": lambda a, b: a[1:],
    "index of the device": lambda a, b: a[torch.zeros(2, dtype=torch.long, device="cuda")],
    "made there": lambda a, b: torch.full((3,), 0.5, device="cuda"),
    "on the CPU": lambda a, b: b.sum().item(),
}


@pytest.mark.parametrize("case", WAITS)
def test_a_wait_is_counted(device, case):
    a, b = torch.ones(3, device="cuda"), torch.ones(3)
    device.waits.clear()
    WAITS[case](a, b)
    assert device.waits.total() == 1


@pytest.mark.parametrize("case", QUIET)
def test_what_does_not_wait_is_not_counted(device, case):
    a, b = torch.ones(3, device="cuda"), torch.ones(3)
    device.waits.clear()
    QUIET[case](a, b)
    assert not device.waits


def test_a_graph_computes_again_from_new_values(device):
    x, graph = torch.arange(3.0).to("cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = (x.view(3, 1) * 2).sum(1).add_(1)
    x.copy_(torch.tensor([5.0, 6.0, 7.0]))
    graph.replay()
    assert out.tolist() == [11.0, 13.0, 15.0]


@pytest.mark.parametrize("case", WAITS)
def test_a_graph_refuses_to_wait(device, case):
    a, b = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(DeviceError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        WAITS[case](a, b)


@pytest.mark.parametrize("pin", [lambda: torch.empty(3, pin_memory=True), lambda: torch.ones(3).pin_memory()])
def test_a_graph_refuses_to_pin_memory(device, pin):
    with pytest.raises(DeviceError, match="pinning"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        pin()


def test_a_copy_to_pinned_memory_arrives_when_it_is_waited_for(device):
    target, event = torch.zeros(3, pin_memory=True), torch.cuda.Event()
    source = torch.ones(3, device="cuda")
    target.copy_(source, non_blocking=True)
    event.record()
    source.mul_(5)
    assert target.isnan().all()
    event.synchronize()
    assert target.tolist() == [1, 1, 1]


def test_pinned_memory_must_not_change_while_it_is_copied(device):
    pinned, there = torch.zeros(3, pin_memory=True), torch.ones(3, device="cuda")
    there.copy_(pinned, non_blocking=True)
    pinned.fill_(2)
    with pytest.raises(DeviceError, match="overwritten"):
        torch.cuda.synchronize()


def test_a_network_moves_there_and_back(device):
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    expected = layer(x)
    moved = layer.to("cuda")
    assert moved.weight.is_cuda
    assert torch.equal(moved(x.to("cuda")).cpu(), expected)
    back = moved.to("cpu")
    assert type(back.weight.data) is torch.Tensor
    assert torch.equal(back(x), expected)
