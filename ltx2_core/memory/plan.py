"""What to keep, to stream and to compute in parts so that a run stays within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..config import TransformerConfig, VideoVAEConfig
from ..shapes import ClipPlan
from .audio_stage import AudioSize, audio_bytes
from .decode_choice import DecodeChoice, choose_decode
from .estimate import step_bytes
from .text_stage import TextSize, text_bytes

GB = 10**9
PRESETS = {f"{size} GB": size * GB for size in (8, 12, 16, 24, 32, 80)}
"""Budgets of common devices."""

CHUNK_TOKENS = 2048
"""Enough tokens to keep matrix products efficient, few enough that their activations hardly count."""

_RESERVE = 0.06
"""Share of the budget that allocators round up and kernels use for themselves."""

_SIZES = {"": 1, "b": 1, "m": 10**6, "mb": 10**6, "g": GB, "gb": GB, "mib": 2**20, "gib": 2**30}

_COPIES = 2
"""Blocks on the device at once besides the resident ones: one that computes, one that arrives."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """Bytes of one stage on the device, and in system memory what waits to be copied there.

    ``state`` is the part of the activations that a decoder keeps from piece to piece.
    """

    stage: str
    weights: int
    activations: int
    state: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.activations


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How to run within ``budget`` bytes.

    ``resident_blocks`` of ``blocks`` stay on the device and the others are streamed. ``chunk_tokens`` is for
    ``Runner``, ``decode`` for the video decoder. Text that is encoded beside the device has
    its weights in the ``host`` bytes of its stage, and tiles that wait have their state there.
    """

    budget: int
    blocks: int
    resident_blocks: int
    chunk_tokens: int | None
    decode: DecodeChoice
    stages: tuple[PlannedStage, ...]

    @property
    def peak(self) -> int:
        return max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every stage stays within the budget; if not, the plan is the smallest that there is."""
        return self.peak <= usable(self.budget)

    @property
    def streamed(self) -> bool:
        """Whether some of the blocks are copied to the device when they are needed."""
        return self.resident_blocks < self.blocks

    def lines(self) -> list[str]:
        """The plan as a table."""
        rows = [f"{'':10}{'weights':>10}{'working':>10}{'state':>10}{'total':>10}{'host':>10}"]
        for s in self.stages:
            sizes = (s.weights, s.activations - s.state, s.state, s.total, s.host)
            rows.append(f"{s.stage:10}" + "".join(f"{size / GB:>7.2f} GB" for size in sizes))
        chunk = "all tokens at once" if self.chunk_tokens is None else f"{self.chunk_tokens} tokens at a time"
        rows.append(f"{self.resident_blocks} of {self.blocks} blocks stay on the device, {chunk}")
        rows.append(self.decode.line())
        if any(s.stage == "text" and s.host for s in self.stages):
            rows.append("the text encoder stays in system memory and computes there")
        if not self.fits:
            rows.append(self.shortage)
        return rows

    @property
    def shortage(self) -> str:
        """What is missing of a plan that does not fit, and what to do."""
        return (
            f"does not fit: the run needs {size_text(self.peak)} and may use "
            f"{size_text(usable(self.budget))} of {size_text(self.budget)}; make a smaller clip, or allow at "
            f"least {size_text(self.peak / (1 - _RESERVE))}"
        )


def plan_memory(
    budget: int,
    *,
    text_weights: int,
    transformer_weights: int,
    block_weights: int,
    decoder_weights: int,
    transformer: TransformerConfig,
    vae: VideoVAEConfig,
    clips: Sequence[ClipPlan],
    dtype: torch.dtype,
    batch: int = 1,
    text_keys: int = 0,
    connector_weights: int = 0,
    text: TextSize | None = None,
    sound: AudioSize | None = None,
) -> MemoryPlan:
    """The fastest plan that fits into ``budget`` bytes, or the smallest one; what it costs grows downwards:
    everything resident, tokens in chunks, blocks streamed; smaller pieces for the decoder, then tiles. A text
    encoder that does not fit stays beside the device.

    ``transformer_weights`` count all blocks, ``block_weights`` one, ``text_weights`` also the connectors,
    which follow the encoder; ``batch`` samples go through the transformer at once, beside ``text_keys`` bytes
    that are kept of the text while it samples. Prompts are taken to be as long as they can be, a negative one
    included. Without ``text`` what reading them needs besides weights is left out, without ``sound`` its
    decoding. Raises ValueError for a budget below 1.
    """
    check_budget(budget)
    room, blocks, itemsize = usable(budget), transformer.num_layers, dtype.itemsize

    def working(chunk_tokens: int | None) -> list[int]:
        steps = (step_bytes(transformer, clip, itemsize, chunk_tokens=chunk_tokens) for clip in clips)
        return [batch * step + text_keys for step in steps]

    chunk_tokens = None if transformer_weights + max(working(None)) <= room else CHUNK_TOKENS
    steps = working(chunk_tokens)
    resident, on_device = blocks, transformer_weights
    if transformer_weights + max(steps) > room and blocks > _COPIES:
        others = transformer_weights - blocks * block_weights
        left = room - max(steps) - others - _COPIES * block_weights
        resident = min(max(left // block_weights, 0), blocks - _COPIES)
        on_device = others + (resident + _COPIES) * block_weights
    waiting = (blocks - resident) * block_weights

    decode = choose_decode(room - decoder_weights, vae=vae, clip=clips[-1], dtype=dtype)
    reading, connecting = text_stages(text_weights, connector_weights, text, itemsize)
    beside = reading.total > room
    stages = [
        replace(connecting, host=reading.weights)
        if beside
        else max(reading, connecting, key=lambda stage: stage.total)
    ]
    stages += [
        PlannedStage(stage=f"stage {number}", weights=on_device, activations=step, host=waiting)
        for number, step in enumerate(steps, start=1)
    ]
    if sound is not None:
        weights, activations = audio_bytes(sound, clips[-1].audio_latents)
        stages.append(PlannedStage(stage="sound", weights=weights, activations=activations))
    stages.append(
        PlannedStage(
            stage="decode",
            weights=decoder_weights,
            activations=decode.memory.peak,
            state=decode.memory.state,
            host=decode.host,
        )
    )
    return MemoryPlan(
        budget=budget,
        blocks=blocks,
        resident_blocks=resident,
        chunk_tokens=chunk_tokens,
        decode=decode,
        stages=tuple(stages),
    )


def text_stages(
    text_weights: int, connector_weights: int, text: TextSize | None, itemsize: int
) -> tuple[PlannedStage, PlannedStage]:
    """The encoder and the connectors, which live one after the other."""
    encoder, connectors = (0, 0) if text is None else text_bytes(text, itemsize)
    return (
        PlannedStage(stage="text", weights=text_weights - connector_weights, activations=encoder),
        PlannedStage(stage="text", weights=connector_weights, activations=connectors),
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes of ``device`` that a run may use now, the reserve of this process included; None if unknown."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def usable(budget: int) -> int:
    """Bytes of ``budget`` that a plan gives away."""
    return int(budget * (1 - _RESERVE))


def check_budget(budget: int) -> None:
    """Raise ValueError for a budget below 1 byte."""
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 byte; got {budget}. Give what the device has free")


def parse_budget(text: str, device: torch.device) -> int:
    """A size as for ``parse_size``, or ``auto`` for what ``device`` has free.

    Raises ValueError for anything else, and for ``auto`` where the device does not say.
    """
    if text.strip().lower() != "auto":
        return parse_size(text)
    free = free_memory(device)
    if free is None:
        raise ValueError(f"{device.type} does not say what it has free: give a size such as 16GB")
    return free


def parse_size(text: str) -> int:
    """``8GB``, ``7.5 GiB``, ``900MB`` or a number of bytes -> bytes. Raises ValueError for anything else."""
    number = text.strip().rstrip("BGMbgim ")
    factor = _SIZES.get(text.strip()[len(number) :].strip().lower())
    try:
        size = int(float(number) * (factor or 0))
    except (ValueError, OverflowError):
        size = 0
    if factor is None or size < 1:
        raise ValueError(f"{text!r} is no size; write such as 8GB, 7.5GiB, 900MB or a number of bytes")
    return size


def size_text(count: float) -> str:
    """Bytes for people: 1.23 GB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
