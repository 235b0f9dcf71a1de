"""Planning of a run within a memory budget: what stays on the device, is streamed, or computed in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..config import TransformerConfig, VideoVAEConfig
from ..shapes import ClipPlan
from ..video_vae.diffusion.kernels import Means
from .audio_stage import AudioSize, audio_bytes
from .decode_choice import DecodeChoice, choose_decode
from .estimate import step_bytes
from .text_stage import TextSize, text_bytes
from .transfers import PINNED_BYTES

GB = 10**9
PRESETS = {f"{size} GB": size * GB for size in (8, 12, 16, 24, 32, 48, 80)}
"""Budgets in bytes for common sizes of GPU memory."""

CHUNK_TOKENS = 2048
"""Tokens per chunk: enough for efficient matrix products, few enough for small activations."""

_RESERVE = 0.06
"""Share of the budget left free, for rounding by allocators and workspace of kernels."""

# GB is 10^9 and GiB 2^30, as drives and standards have it; nvidia-smi prints MiB.
_SIZES = {"": 1, "b": 1, "m": 10**6, "mb": 10**6, "g": GB, "gb": GB, "mib": 2**20, "gib": 2**30}

_COPIES = 2
"""Streamed blocks on the device at once: one that computes and one that is being copied."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Configurations of the networks that a run loads, and the bytes of their weights.

    ``transformer_weights`` are of the whole transformer, ``block_weights`` of one of its blocks,
    ``text_weights`` of encoder and connectors, ``connector_weights`` of the connectors alone,
    ``decoder_weights`` of the video decoder. Without ``text`` the activations of text encoding are not
    counted, without ``audio`` the decoding of audio.
    """

    transformer: TransformerConfig
    vae: VideoVAEConfig
    text: TextSize | None = None
    audio: AudioSize | None = None
    text_weights: int
    connector_weights: int = 0
    transformer_weights: int
    block_weights: int
    decoder_weights: int


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """Bytes of one stage of a run: ``weights`` and ``activations`` on the device, ``host`` in system memory.

    ``stage`` is its name, such as "decode". ``state`` is the part of the activations that a decoder caches
    from one piece of the clip (a few consecutive frames) to the next.
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
    """How to run within ``budget`` bytes of device memory.

    ``resident_blocks`` of the transformer's ``blocks`` stay on the device, the others are streamed to it.
    ``chunk_tokens`` is how many video tokens go through a layer at a time (None: all), ``decode`` how the
    video is decoded (whole or in tiles). ``stages`` are the stages of the run (text, sampling, decoding and
    so on) with their memory. The ``host`` bytes of a stage, in system memory, hold streamed blocks, the text
    encoder if it runs on the CPU, decoded frames of the source of an edit, or the caches of tiles that are
    not being decoded.
    """

    budget: int
    blocks: int
    resident_blocks: int
    chunk_tokens: int | None
    decode: DecodeChoice
    stages: tuple[PlannedStage, ...]
    fitting: ClipPlan | None = None

    @property
    def peak(self) -> int:
        return max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every stage fits into the budget, less a reserve; if not, no plan has a lower peak."""
        return self.peak <= usable(self.budget)

    @property
    def streamed(self) -> bool:
        """Whether some blocks are offloaded and copied to the device when they are needed."""
        return self.resident_blocks < self.blocks

    def lines(self) -> list[str]:
        """The plan as lines of text: a table with the memory of each stage, and notes on what the plan does.

        The last line says whether the plan fits, and if not what to do.
        """
        rows = [f"{'':10}{'weights':>10}{'working':>10}{'state':>10}{'total':>10}{'host':>10}"]
        for s in self.stages:
            sizes = (s.weights, s.activations - s.state, s.state, s.total, s.host)
            rows.append(f"{s.stage:10}" + "".join(f"{size / GB:>7.2f} GB" for size in sizes))
        chunk = "all tokens at once" if self.chunk_tokens is None else f"{self.chunk_tokens} tokens at a time"
        rows.append(f"{self.resident_blocks} of {self.blocks} blocks stay on the device, {chunk}")
        if self.streamed:
            rows.append(
                f"the others are copied to it, on CUDA through {size_text(PINNED_BYTES)} of pinned memory"
            )
        rows.append(self.decode.line())
        if any(s.stage == "text" and s.host for s in self.stages):
            rows.append("the text encoder stays in system memory and computes there")
        rows.append(self.verdict if self.fits else self.shortage)
        return rows

    @property
    def verdict(self) -> str:
        """A text that says that the plan fits, how much it needs, and what it costs in time.

        Only meant for a plan whose ``fits`` is True; that is not checked.
        """
        host = max(stage.host for stage in self.stages)
        system = f", and {size_text(host)} of system memory" if host else ""
        how = "nothing is offloaded"
        if self.streamed:
            copied = self.blocks - self.resident_blocks
            how = f"slower, because each step copies {copied} of {self.blocks} blocks to the device"
        elif host:
            how = "the transformer is never offloaded"
        return f"fits: needs {size_text(self.peak)} of {size_text(self.budget)}{system}; {how}"

    @property
    def shortage(self) -> str:
        """A text that says that the plan does not fit, how much it needs and may use, and what to do.

        Only meant for a plan whose ``fits`` is False; that is not checked.
        """
        largest = max(self.stages, key=lambda stage: stage.total)
        # The text takes the same memory for any clip.
        of_text = largest.stage == "text"
        smaller = "use files with weights of fewer bits" if of_text else "make a smaller clip"
        if (clip := self.fitting) is not None:
            smaller = f"make {clip.frames} frames of {clip.width}x{clip.height}, which fit"
        return (
            f"does not fit: the run needs {size_text(self.peak)}, in {largest.stage}, and may use "
            f"{size_text(usable(self.budget))} of {size_text(self.budget)}; {smaller}, or allow at "
            f"least {size_text(self.peak / (1 - _RESERVE))}"
        )


def plan_memory(  # noqa: PLR0913 everything that a run of four networks depends on
    budget: int,
    size: ModelSize,
    *,
    clips: Sequence[ClipPlan],
    dtype: torch.dtype,
    batch: int = 1,
    text_keys: int = 0,
    source: PlannedStage | None = None,
    finished: ClipPlan | None = None,
    decode_dtype: torch.dtype | None = None,
    means: Means = "tiles",
    parts: int = 1,
) -> MemoryPlan:
    """The fastest plan that fits into ``budget`` bytes of device memory, or else that with the lowest peak.

    For sampling it tries, in this order: everything resident, tokens in chunks, blocks streamed. For
    decoding: smaller pieces of time, then tiles. A text encoder that does not fit stays in system memory and
    runs on the CPU.

    ``clips`` has one entry for each sampling stage; ``finished`` is the clip that is decoded, by default the
    last of them. ``batch`` samples go through the transformer at once, and ``text_keys`` bytes of cached text
    keys and values are held while it samples. ``source`` is the stage that encodes the source of an edit,
    None without an edit. ``decode_dtype`` is the number format in which the video is decoded, None for
    ``dtype``; the decoder's weights in ``size`` are in that format. ``means`` is what
    computes the attention of the diffusion decoder on the device. If ``parts`` processes divide the tokens of
    the transformer, the plan is that of the first of them, which also decodes. A positive and a negative
    prompt of the full length are assumed.

    Raises ValueError for a budget below 1.
    """
    check_budget(budget)
    decoded = clips[-1] if finished is None else finished
    room, blocks, itemsize = usable(budget), size.transformer.num_layers, dtype.itemsize

    def working(chunk_tokens: int | None) -> list[int]:
        steps = (
            step_bytes(size.transformer, clip, itemsize, chunk_tokens=chunk_tokens, parts=parts)
            for clip in clips
        )
        return [batch * step + text_keys for step in steps]

    # A part of the tokens is a chunk already.
    whole = parts > 1 or size.transformer_weights + max(working(None)) <= room
    chunk_tokens = None if whole else CHUNK_TOKENS
    steps = working(chunk_tokens)
    # Chunks cost little time, streaming costs much, so chunks are used before any block is offloaded.
    resident, on_device = _resident_blocks(size, room - max(steps))
    offloaded = (blocks - resident) * size.block_weights

    decode = choose_decode(
        room - size.decoder_weights, vae=size.vae, clip=decoded, dtype=decode_dtype or dtype, means=means
    )
    # The connectors are small and always run on the device, even if the encoder does not.
    encoder, connectors = text_stages(size.text_weights, size.connector_weights, size.text, itemsize)
    stages = [
        replace(connectors, host=encoder.weights)
        if encoder.total > room
        else max(encoder, connectors, key=lambda stage: stage.total)
    ]
    if source is not None:
        stages.append(source)
    stages += [
        PlannedStage(stage=f"stage {number}", weights=on_device, activations=step, host=offloaded)
        for number, step in enumerate(steps, start=1)
    ]
    # Audio is decoded before the video, which is the order of these rows.
    if size.audio is not None:
        weights, activations = audio_bytes(size.audio, decoded.audio_latents)
        stages.append(PlannedStage(stage="audio", weights=weights, activations=activations))
    stages.append(
        PlannedStage(
            stage="decode",
            weights=size.decoder_weights,
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


def _resident_blocks(size: ModelSize, room: int) -> tuple[int, int]:
    """How many blocks of the transformer stay on the device if its weights have ``room`` bytes there.

    The other blocks are copied to the device in turn. Returns the number of resident blocks, and the bytes of
    all weights that are on the device at a time, including two copied blocks.
    """
    blocks, block = size.transformer.num_layers, size.block_weights
    if size.transformer_weights <= room or blocks <= _COPIES:
        return blocks, size.transformer_weights
    # Embeddings, projections and tables are small and used in every step, so that they are never streamed.
    others = size.transformer_weights - blocks * block
    left = room - others - _COPIES * block
    # With fewer streamed blocks than copies on the device, streaming would save nothing.
    resident = min(max(left // block, 0), blocks - _COPIES)
    return resident, others + (resident + _COPIES) * block


def text_stages(
    text_weights: int, connector_weights: int, text: TextSize | None, itemsize: int
) -> tuple[PlannedStage, PlannedStage]:
    """The memory of (text encoder, connectors), which are loaded one after the other.

    Weights are bytes; ``text_weights`` are those of both together. ``itemsize`` is the bytes of one
    activation. Without ``text`` (None) activations count 0.
    """
    encoder, connectors = (0, 0) if text is None else text_bytes(text, itemsize)
    return (
        PlannedStage(stage="text", weights=text_weights - connector_weights, activations=encoder),
        PlannedStage(stage="text", weights=connector_weights, activations=connectors),
    )


def free_memory(device: torch.device) -> int | None:
    """Free bytes of ``device``, plus what this process's allocator has cached; None unless it is CUDA."""
    if device.type != "cuda":
        return None
    # Memory that this process's allocator has cached is not free for the driver, but it is for a run.
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def usable(budget: int) -> int:
    """Bytes that a plan may use of a memory budget of ``budget`` bytes: all but 6 % for the allocator."""
    return int(budget * (1 - _RESERVE))


def check_budget(budget: int) -> None:
    """Raise ValueError for a memory budget below 1 byte."""
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 byte; got {budget}. Use what the device has free")


def parse_budget(text: str, device: torch.device) -> int:
    """Parse a memory budget: a size as for ``parse_size``, or "auto" for the free memory of ``device``.

    Returns bytes. Raises ValueError for other text, and for "auto" on a device that does not report its free
    memory.
    """
    if text.strip().lower() != "auto":
        return parse_size(text)
    free = free_memory(device)
    if free is None:
        raise ValueError(f"{device.type} does not report its free memory: use a size such as 16GB")
    return free


def parse_size(text: str) -> int:
    """Parse a size such as "8GB", "7.5 GiB", "900MB" or a number of bytes; returns bytes.

    Raises ValueError for anything else.
    """
    number = text.strip().rstrip("BGMbgim ")
    factor = _SIZES.get(text.strip()[len(number) :].strip().lower())
    try:
        size = int(float(number) * (factor or 0))
    except (ValueError, OverflowError):
        size = 0
    if factor is None or size < 1:
        raise ValueError(f"{text!r} is not a size; write 8GB, 7.5GiB, 900MB or a number of bytes")
    return size


def size_text(count: float) -> str:
    """A number of bytes as readable text, such as "1.23 GB"."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
