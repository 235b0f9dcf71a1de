"""The blocks of a step as one CUDA graph: recorded for a shape, replayed for every step after it.

Launching some 17,000 kernels takes longer than computing a short clip. What may change from step to step
(tokens, modulation, text) is copied into the tensors that were recorded; the rest is the same tensor each
time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..out_of_memory import is_out_of_memory
from .adaln import Modulation
from .streams import StreamInputs

_log = logging.getLogger(__name__)

MAX_TOKENS = 4096
"""Of both streams together; beyond, the kernels take longer than their launches."""

_CHANGING = ("modulation", "embedding", "prompt", "cross")

Inputs = tuple[StreamInputs | None, StreamInputs | None]
Streams = tuple[Tensor | None, Tensor | None]
Run = Callable[[Tensor | None, Tensor | None, StreamInputs | None, StreamInputs | None], Streams]
"""Both streams and what they bring to every block -> their velocities."""


class Record(Protocol):
    """What was recorded: ``replay`` computes ``out`` again from what is in the tensors that it was given."""

    out: Streams

    def replay(self) -> None: ...


class CudaRecord:
    """A CUDA graph with memory of its own."""

    def __init__(self, run: Callable[[], Streams]) -> None:
        # Libraries allocate when they are first used, which a capture does not allow.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.out = run()

    def replay(self) -> None:
        self._graph.replay()


class Graphs:
    """Recorded steps of one transformer, the last ``limit`` of them.

    They are told apart by the shapes of what changes, and by the place of what does not: rotary tables and
    every weight. A weight that is written into needs no new record, as a replay reads it where it is; one
    that is another tensor does. ``problem`` says why steps are computed one kernel at a time, once recording
    has failed.
    """

    def __init__(
        self,
        record: Callable[[Callable[[], Streams]], Record] = CudaRecord,
        *,
        devices: Sequence[str] = ("cuda",),
        max_tokens: int = MAX_TOKENS,
        limit: int = 4,
    ) -> None:
        self.problem: str | None = None
        self.recorded = 0
        """How many steps were recorded so far."""
        self._record, self._devices = record, devices
        self._max_tokens, self._limit = max_tokens, limit
        self._kept: OrderedDict[Any, _Kept] = OrderedDict()

    def why_not(self, blocks: nn.Module, x: Tensor | None, y: Tensor | None, inputs: Inputs) -> str | None:
        """Why this step has to be computed one kernel at a time; None where it can be recorded."""
        given = [stream for stream in (x, y) if stream is not None]
        present = [stream for stream in inputs if stream is not None]
        if self.problem is not None:
            return self.problem
        if given[0].device.type not in self._devices:
            return f"graphs are recorded on {', '.join(self._devices)}; the tokens are on {given[0].device}"
        if torch.is_grad_enabled():
            return "gradients are wanted"
        if sum(stream.shape[1] for stream in given) > self._max_tokens:
            return f"there are more than {self._max_tokens} tokens"
        if any(stream.shards is not None for stream in present):
            return "several processes share the tokens"
        if any(stream.chunks.tokens is not None for stream in present):
            return "tokens are computed in chunks"
        if any(stream.negative is not None or (stream.texts is not None and stream.texts.keys)
               for stream in present):  # fmt: skip
            return "a text is kept or avoided in every block"
        if any(stream.attention_bias is not None for stream in present):
            return "attention has a mask"
        if any(m._forward_pre_hooks or m._forward_hooks for m in blocks.modules()):
            return "something watches or moves the blocks"
        return None

    def run(
        self, network: nn.Module, run: Run, x: Tensor | None, y: Tensor | None, inputs: Inputs
    ) -> Streams:
        """``run(x, y, *inputs)`` by a replay, recorded first where it was not."""
        changing = [t for t in (x, y, *_changing(inputs)) if t is not None]
        constant = _constants(network, inputs)
        layout = tuple((tuple(t.shape), t.stride(), t.dtype, t.device) for t in changing)
        bounds = tuple(m.segments for m in _modulations(inputs))
        key = (x is None, y is None, layout, bounds, tuple(t.data_ptr() for t in constant))
        kept = self._kept.get(key)
        if kept is None:
            kept = self._keep(key, run, x, y, inputs, constant)
            if kept is None:
                return run(x, y, *inputs)
        else:
            self._kept.move_to_end(key)
        for own, given in zip(kept.changing, changing, strict=True):
            own.copy_(given)
        kept.record.replay()
        sight, sound = (None if t is None else t.clone() for t in kept.record.out)
        return sight, sound

    def clear(self) -> None:
        """Let go of every record and its memory."""
        self._kept.clear()

    def _keep(
        self, key: Any, run: Run, x: Tensor | None, y: Tensor | None, inputs: Inputs, constant: list[Tensor]
    ) -> _Kept | None:
        while len(self._kept) >= self._limit:
            self._kept.popitem(last=False)
        own_x, own_y = (None if t is None else t.clone() for t in (x, y))
        own = _own(inputs)
        start_x, start_y = (None if t is None else t.clone() for t in (x, y))

        def again() -> Streams:
            # Blocks write into the streams; the copy leaves the recorded inputs as they were given.
            for target, source in ((start_x, own_x), (start_y, own_y)):
                if target is not None and source is not None:
                    target.copy_(source)
            return run(start_x, start_y, *own)

        try:
            record = self._record(again)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            first = str(error).splitlines()[0] if str(error) else ""
            self.problem = f"{type(error).__name__}: {first}"
            _log.warning("steps cannot be recorded here and are computed as ever: %s", self.problem)
            return None
        self.recorded += 1
        changing = [t for t in (own_x, own_y, *_changing(own)) if t is not None]
        self._kept[key] = _Kept(record, changing, constant, own)
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class _Kept:
    """A record, the tensors to fill before it is replayed, and those that it reads, which must stay alive."""

    record: Record
    changing: list[Tensor]
    constant: list[Tensor]
    inputs: Inputs


def _modulations(inputs: Inputs) -> list[Modulation]:
    return [
        modulation
        for stream in inputs
        if stream is not None
        for name in _CHANGING
        if (modulation := getattr(stream, name)) is not None
    ]


def _changing(inputs: Inputs) -> list[Tensor]:
    """The tensors of the inputs that may change from step to step."""
    rows = [tensor for m in _modulations(inputs) for tensor in (m.rows, m.ones, m.index)]
    texts = [tensor for s in inputs if s is not None for tensor in (s.context, s.context_bias)]
    return [tensor for tensor in (*rows, *texts) if tensor is not None]


def _own(inputs: Inputs) -> Inputs:
    """The inputs with tensors of their own for what changes."""

    def copied(modulation: Modulation) -> Modulation:
        rows, ones, index = (
            None if t is None else t.clone() for t in (modulation.rows, modulation.ones, modulation.index)
        )
        assert rows is not None
        return replace(modulation, rows=rows, ones=ones, index=index)

    def own(stream: StreamInputs | None) -> StreamInputs | None:
        if stream is None:
            return None
        changes: dict[str, Any] = {
            name: copied(modulation)
            for name in _CHANGING
            if (modulation := getattr(stream, name)) is not None
        }
        changes["context"] = stream.context.clone()
        changes["context_bias"] = None if stream.context_bias is None else stream.context_bias.clone()
        return replace(stream, **changes)

    video, audio = inputs
    return own(video), own(audio)


def _constants(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors that a record reads where they are."""
    found: list[Tensor] = [*network.parameters(), *network.buffers()]
    for stream in inputs:
        if stream is not None:
            tables = [stream.rope, stream.cross_rope]
            found += [t for rope in tables if rope is not None for t in (rope.cos, rope.sin)]
    return found
