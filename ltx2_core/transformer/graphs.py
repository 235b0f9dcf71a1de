"""The blocks of a step as one CUDA graph: recorded for a shape, replayed for every step after it.

Launching some 17,000 kernels takes longer than computing a short clip. What may change from step to step
(tokens, modulation, text) is copied into the tensors that were recorded; everything else is the same tensor
each time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..out_of_memory import is_out_of_memory
from .modulation import Modulation
from .streams import BothInputs, Hidden, StreamInputs

_log = logging.getLogger(__name__)

MAX_TOKENS = 4096
"""Of both streams together; beyond, the kernels take longer than their launches."""

_CHANGING = ("modulation", "head", "prompt", "cross")

Run = Callable[[Hidden, BothInputs], Hidden]
"""Both streams before the first block, and what they take into every block -> their velocities."""


class Record(Protocol):
    """A recorded computation: ``replay`` computes ``out`` again, from what its input tensors then contain."""

    out: Hidden

    def replay(self) -> None: ...


class CudaRecord:
    """A recording of the kernels that one call of the function ``run`` starts, as a CUDA graph.

    A replay starts the same kernels on the same memory: it reads the tensors that ``run`` read, into which
    new inputs are copied before, and overwrites the attribute ``out``, what ``run`` returned. The graph's
    memory is used by nothing else.
    """

    def __init__(self, run: Callable[[], Hidden]) -> None:
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
    """Records the blocks of one transformer as CUDA graphs and replays them.

    ``record`` makes a record of a function. Only steps on ``devices`` and of at most ``max_tokens`` tokens,
    both streams together, are recorded; the last ``limit`` records are cached. A record is found by the
    shapes of the tensors that change from step to step, and by the addresses of those that do not: rotary
    tables and every weight. New values that are written into a weight need no new record, since a replay
    reads them there; a weight that is replaced by another tensor does. If recording fails, ``problem`` says
    why (None until then), and all later steps are computed one kernel at a time.
    """

    def __init__(
        self,
        record: Callable[[Callable[[], Hidden]], Record] = CudaRecord,
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
        self._records: OrderedDict[Any, _Recorded] = OrderedDict()

    def why_not(self, blocks: nn.Module, hidden: Hidden, inputs: BothInputs) -> str | None:
        """Why a step cannot be recorded as a graph, in words; None if it can.

        ``blocks`` are the transformer's, ``hidden`` the tokens before the first of them, ``inputs`` what the
        streams take into every block.
        """
        tokens = [stream for stream in hidden if stream is not None]
        present = [stream for stream in inputs if stream is not None]
        if self.problem is not None:
            return self.problem
        if tokens[0].device.type not in self._devices:
            return f"graphs are recorded on {', '.join(self._devices)}; the tokens are on {tokens[0].device}"
        # A replay computes into the same buffers each time, which autograd would still have to read.
        if torch.is_grad_enabled():
            return "gradients are enabled"
        # Above the limit a graph saves no time, and would hold the activations of a large clip between the
        # steps.
        if sum(stream.shape[1] for stream in tokens) > self._max_tokens:
            return f"there are more than {self._max_tokens} tokens"
        # Caches are filled while a step is recorded, and a replay would not fill them for another text.
        if any(stream.negative is not None or stream.texts.keys for stream in present):
            return "the text of every block is cached or has a negative one"
        # The runs of tokens become slices in the recorded kernels, and more texts are read than are copied.
        if any(stream.timed is not None for stream in present):
            return "the prompt changes with time"
        # Biases are neither copied into a record nor compared by address, so that a replay would use those of
        # its first step.
        if any(stream.attention_bias is not None for stream in present):
            return "attention has a mask"
        # Hooks run in Python, which a replay does not: offloading and caching by hooks would silently stop.
        if any(m._forward_pre_hooks or m._forward_hooks for m in blocks.modules()):
            return "hooks read or move the blocks"
        return None

    def run(self, network: nn.Module, run: Run, hidden: Hidden, inputs: BothInputs) -> Hidden:
        """The result of ``run(hidden, inputs)``, by replaying its graph.

        ``run`` computes velocities from hidden tokens (video, audio) by the weights of ``network``. A step
        that has no graph yet is recorded first; if recording fails, ``run`` is called as usual.
        """
        changing = _changing(hidden, inputs)
        constant = _constants(network, inputs)
        layout = tuple((tuple(t.shape), t.stride(), t.dtype, t.device) for t in changing)
        # Segments become slices in the recorded kernels, so that other segments need another record.
        bounds = tuple(m.layout.segments for m in _modulations(inputs))
        absent = tuple(t is None for t in hidden)
        # Addresses, not values: a replay reads these tensors where they were when it was recorded.
        key = (absent, layout, bounds, tuple(t.data_ptr() for t in constant))
        recorded = self._records.get(key)
        if recorded is None:
            recorded = self._new_record(key, run, hidden, inputs, constant)
            if recorded is None:
                return run(hidden, inputs)
        else:
            self._records.move_to_end(key)
        # The record reads its own tensors, at fixed addresses, so that new values are copied into them.
        for own, tensor in zip(recorded.changing, changing, strict=True):
            own.copy_(tensor)
        recorded.record.replay()
        # Copies, since the next replay writes into the recorded results.
        return _clones(recorded.record.out)

    def clear(self) -> None:
        """Free every record and its memory."""
        self._records.clear()

    def _new_record(
        self, key: Any, run: Run, hidden: Hidden, inputs: BothInputs, constant: list[Tensor]
    ) -> _Recorded | None:
        # Each record holds activations of its own, so that the oldest is freed before another is made.
        while len(self._records) >= self._limit:
            self._records.popitem(last=False)
        own, own_inputs, start = _clones(hidden), _own(inputs), _clones(hidden)

        def again() -> Hidden:
            # Blocks write into the streams; the copy leaves the recorded inputs as they were.
            for target, source in zip(start, own, strict=True):
                if target is not None and source is not None:
                    target.copy_(source)
            return run(start, own_inputs)

        try:
            # A capture records the kernels of the current device, which need not be the one of the run.
            with _current(own):
                record = self._record(again)
                _check_writes(record)
        # Recording may fail in any library that a step calls, and no such failure may end the run.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            first = str(error).splitlines()[0] if str(error) else ""
            self.problem = f"{type(error).__name__}: {first}"
            _log.warning("steps cannot be recorded here and are computed without graphs: %s", self.problem)
            return None
        self.recorded += 1
        self._records[key] = _Recorded(record, _changing(own, own_inputs), constant, own_inputs)
        return self._records[key]


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A record and the tensors that it reads.

    ``changing`` are filled with new values before each replay. ``constant`` and ``inputs`` are held only so
    that their memory is not freed.
    """

    record: Record
    changing: list[Tensor]
    constant: list[Tensor]
    inputs: BothInputs


def _current(hidden: Hidden) -> AbstractContextManager[object]:
    """A context in which the CUDA device of the tokens is the current one; elsewhere one without effect."""
    device = next(stream.device for stream in hidden if stream is not None)
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _check_writes(record: Record) -> None:
    """Replay ``record`` and raise RuntimeError unless it writes its results.

    A graph that holds no kernel replays without an error, and would repeat the results of the first step.
    """
    results = [stream for stream in record.out if stream is not None]
    for stream in results:
        stream.fill_(float("nan"))
    record.replay()
    if any(bool(stream.isnan().all()) for stream in results):
        raise RuntimeError("the recorded graph is empty or computes only NaN")


def _modulations(inputs: BothInputs) -> list[Modulation]:
    return [
        modulation
        for stream in inputs
        if stream is not None
        for name in _CHANGING
        if (modulation := getattr(stream, name)) is not None
    ]


def _changing(hidden: Hidden, inputs: BothInputs) -> list[Tensor]:
    """All tensors that may change from step to step: tokens, modulation, texts and their masks."""
    modulations = [t for m in _modulations(inputs) for t in (m.values, m.ones, m.layout.index)]
    texts = [tensor for s in inputs if s is not None for tensor in (s.context, s.context_bias)]
    return [tensor for tensor in (*hidden, *modulations, *texts) if tensor is not None]


def _clones(hidden: Hidden) -> Hidden:
    x, y = (None if t is None else t.clone() for t in hidden)
    return x, y


def _own(inputs: BothInputs) -> BothInputs:
    """A copy of ``inputs``, with clones of the tensors that change from step to step; others are shared."""

    def copied(modulation: Modulation) -> Modulation:
        layout = modulation.layout
        # Groups are found again at each step, so that their index changes as the values do.
        index = None if layout.index is None else layout.index.clone()
        return replace(
            modulation,
            values=modulation.values.clone(),
            ones=modulation.ones.clone(),
            layout=replace(layout, index=index),
        )

    def own(stream: StreamInputs | None) -> StreamInputs | None:
        if stream is None:
            return None
        return replace(
            stream,
            modulation=copied(stream.modulation),
            head=copied(stream.head),
            prompt=None if stream.prompt is None else copied(stream.prompt),
            cross=None if stream.cross is None else copied(stream.cross),
            context=stream.context.clone(),
            context_bias=None if stream.context_bias is None else stream.context_bias.clone(),
        )

    video, audio = inputs
    return own(video), own(audio)


def _constants(network: nn.Module, inputs: BothInputs) -> list[Tensor]:
    """The tensors that a replay reads at their recorded addresses: weights, buffers and rotary tables."""
    found: list[Tensor] = [*network.parameters(), *network.buffers()]
    for stream in inputs:
        if stream is not None:
            tables = [stream.rope, stream.cross_rope]
            found += [t for rope in tables if rope is not None for t in (rope.cos, rope.sin)]
    return found
