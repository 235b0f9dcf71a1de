"""Weights reach a CUDA device whole and in order, through a few small buffers."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from ltx2_core.memory import transfers
from ltx2_core.memory.transfers import Beside, InOrder, as_bytes, transfers_to

ODD = (
    torch.arange(97, dtype=torch.float32).view(97, 1),
    torch.arange(64, dtype=torch.bfloat16).view(8, 8).T,
    torch.arange(33, dtype=torch.uint8),
    torch.tensor(3.5),
    torch.zeros(0, 4),
    torch.arange(20, dtype=torch.float32).to(torch.float8_e4m3fn),
)


class Event:
    """An event of a stream, which notes who waits for it."""

    def __init__(self, log, number):
        self.log, self.number = log, number

    def synchronize(self):
        self.log.append(("synchronize", self.number))


class Stream:
    """The part of a CUDA stream that copies use; it does at once what it is asked."""

    def __init__(self, *_):
        self.log, self.events = [], 0

    def wait_event(self, event):
        self.log.append(("wait", event))

    def record_event(self):
        self.events += 1
        return Event(self.log, self.events)

    def synchronize(self):
        pass


@pytest.fixture
def cuda(monkeypatch):
    """The streams of CUDA on the CPU: the way of the bytes is real, the device is not."""
    computing = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: computing)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(transfers, "STAGING_BYTES", 16)
    return computing


def staged(count):
    return lambda: [torch.empty(16, dtype=torch.uint8) for _ in range(count)]


@pytest.mark.parametrize("buffers", [0, 1, 4])
def test_every_byte_arrives_through_any_number_of_buffers(cuda, monkeypatch, buffers):
    monkeypatch.setattr(transfers, "pinned_buffers", staged(buffers))
    beside = Beside(torch.device("cuda"))
    assert beside.pinned == buffers * 16
    targets = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in ODD]
    copied = beside.copy(ODD, targets, None)
    copied.wait()
    for source, target in zip(ODD, targets, strict=True):
        assert torch.equal(as_bytes(source), as_bytes(target))
    assert len(cuda.log) == 1  # The computation has waited for the one event at the end.
    beside.close()
    assert beside.pinned == 0


def test_a_buffer_is_filled_again_only_after_its_last_copy(cuda, monkeypatch):
    monkeypatch.setattr(transfers, "pinned_buffers", staged(2))
    beside = Beside(torch.device("cuda"))
    source = torch.arange(96, dtype=torch.uint8)
    beside.copy([source], [torch.empty_like(source)], None).wait()
    # Six parts go through two buffers: the third waits for the first, and so on.
    assert beside._stream.log == [("synchronize", number) for number in (1, 2, 3, 4)]
    beside.close()


def test_a_copy_begins_after_the_point_that_it_was_given(cuda, monkeypatch):
    monkeypatch.setattr(transfers, "pinned_buffers", staged(2))
    beside = Beside(torch.device("cuda"))
    point = beside.point()
    beside.copy([torch.ones(4)], [torch.empty(4)], point).wait()
    assert beside._stream.log[0] == ("wait", point)
    beside.close()


def test_a_copy_that_fails_raises_where_the_computation_waits(cuda, monkeypatch):
    monkeypatch.setattr(transfers, "pinned_buffers", staged(2))
    beside = Beside(torch.device("cuda"))
    copied = beside.copy([torch.ones(4)], [SimpleNamespace()], None)
    with pytest.raises(AttributeError):
        copied.wait()
    beside.close()


def test_without_pinned_memory_there_are_no_buffers():
    if torch.cuda.is_available():
        pytest.skip("this machine gives pinned memory")
    assert transfers.pinned_buffers() == []


def test_other_devices_copy_in_order():
    assert isinstance(transfers_to(torch.device("cpu")), InOrder)
    assert isinstance(transfers_to(torch.device("meta")), InOrder)


@pytest.mark.gpu
def test_a_gpu_gets_every_byte():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    beside = Beside(torch.device("cuda"))
    targets = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in ODD]
    beside.copy(ODD, targets, beside.point()).wait()
    for source, target in zip(ODD, targets, strict=True):
        assert torch.equal(as_bytes(source), as_bytes(target.cpu()))
    beside.close()
