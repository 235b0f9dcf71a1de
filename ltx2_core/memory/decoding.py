"""Peak memory of the streaming video decoder, by a simulation that counts frames instead of computing them.

It follows ``video_vae.streaming.run_stages`` step by step and must change together with that function. Sizes
in bytes are those of one frame at that point of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Literal

from ..config import VideoVAEConfig
from ..video_vae.convolution import ONEDNN_SIZE
from ..video_vae.streaming import MAX_PIECE_BYTES, TAPS
from .decoder_memory import DecoderMemory
from .diffusion_decoding import diffusion_memory, frames_at_once

_CACHED = TAPS - 1
"""Input frames that a convolution caches from one piece to the next."""

_ENOUGH_LATENTS = 48
"""Latent frames after which the peak no longer grows with the length of the clip."""

Kind = Literal["plain", "conv", "residual", "upsample", "head"]


def decoder_memory(
    vae: VideoVAEConfig,
    *,
    latent_frames: int,
    cells: tuple[int, int],
    itemsize: int,
    piece_bytes: int | None = None,
) -> DecoderMemory:
    """Bytes of working memory to decode a latent of ``latent_frames`` frames of ``cells`` (rows, columns).

    ``itemsize`` is the bytes of one value. ``piece_bytes`` is the decoder's ``max_piece_bytes``, which limits
    the activations of the piece of the clip that it computes at a time; None is its default. The estimate is
    within 10 % of what ``memory.trace.Trace`` counts in a real decode. Weights, the latent and the frames
    already yielded are not included.
    """
    if vae.diffusion is not None:
        at_once = frames_at_once(vae, cells, itemsize, piece_bytes)
        return diffusion_memory(
            vae, latent_frames=latent_frames, cells=cells, itemsize=itemsize, at_once=at_once
        )
    # Longer clips do not raise the peak, and their simulation would only take longer.
    frames = min(latent_frames, _ENOUGH_LATENTS)
    return _simulated(vae, frames, cells, itemsize, piece_bytes or MAX_PIECE_BYTES)


@lru_cache(maxsize=256)
def _simulated(
    vae: VideoVAEConfig, frames: int, cells: tuple[int, int], itemsize: int, piece_bytes: int
) -> DecoderMemory:
    stages = _stages(vae, cells, itemsize)
    # Reflection is an explicit copy of the input, zeros are padded within the convolution.
    pad = (cells[0] + 2) * (cells[1] + 2) / (cells[0] * cells[1]) if vae.decoder_padding == "reflect" else 0.0
    simulation = _Simulation(
        stages=stages,
        piece=piece_bytes,
        pad=pad,
        centre=_CACHED if vae.causal_decoder else 1,
        float32=itemsize == 4,
    )
    simulation.through(0, frames, last=True, above=0)
    return DecoderMemory(peak=int(simulation.peak), state=int(simulation.largest_cache))


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """One stage of the decoder; ``input`` and ``output`` are the bytes of one frame before and after it.

    ``kind`` is "plain" (no convolution), "conv" (one convolution), "residual" (a block of two, with a skip
    connection), "upsample" (a convolution whose channels become frames, rows and columns) or "head" (norm,
    then the convolution to pixels). Of these, only "upsample" has the fields ``inner``, ``times`` and
    ``residual``, which are documented below.
    """

    kind: Kind
    input: float
    output: float
    columns: int
    """Width of the input in positions."""
    inner: float = 0.0
    """Bytes of one frame after the convolution of an upsampling stage, before its pixel shuffle."""
    growth: float = 1.0
    """As in ``video_vae.streaming.Stage``: size of the result over the size of the input, at least 1."""
    times: int = 1
    """Output frames for each input frame."""
    residual: bool = False
    """Whether an upsampling stage adds its input to the result."""


def _stages(vae: VideoVAEConfig, cells: tuple[int, int], itemsize: int) -> list[_Stage]:
    unit = cells[0] * cells[1] * itemsize
    width = vae.decoder_base_channels * prod(block.multiplier for block in vae.decoder_blocks)
    latent, now, columns = vae.latent_channels * unit, float(width * unit), cells[1]
    growth = max(1.0, width / vae.latent_channels)
    stages = [
        _Stage(kind="plain", input=latent, output=latent, columns=columns),
        _Stage(kind="conv", input=latent, output=now, columns=columns, growth=growth),
    ]
    for block in vae.decoder_blocks:
        if block.is_residual:
            after = now / block.multiplier
            stages += [_Stage(kind="residual", input=now, output=after, columns=columns)] * block.num_layers
            now, width = after, width // block.multiplier
            continue
        cell = prod(block.strides)
        inner = now / block.multiplier * cell
        stages.append(
            _Stage(
                kind="upsample",
                input=now,
                output=inner / block.strides[0],
                columns=columns,
                inner=inner,
                growth=max(1.0, cell / block.multiplier),
                times=block.strides[0],
                residual=block.residual,
            )
        )
        now = inner / block.strides[0]
        width //= block.multiplier
        columns *= block.strides[2]
    pixels = now / width * vae.channels * vae.patch_size**2
    stages.append(_Stage(kind="head", input=now, output=pixels, columns=columns))
    return stages


@dataclass(kw_only=True)
class _Simulation:
    """Simulates the memory of one decode: bytes that convolutions cache, and the peak so far, in bytes.

    ``stages`` are those of the decoder; ``piece`` is its ``max_piece_bytes``, the limit of activations by
    which it divides the clip in time. No frame is computed.
    """

    stages: list[_Stage]
    piece: int
    pad: float
    """Size of an input padded by reflection over the plain input; 0 where the convolution pads with zeros."""
    centre: int
    """Frames that a convolution repeats before the first one of the clip."""
    float32: bool
    """Whether values are float32, of which the CPU convolves small windows as a batch of two."""
    peak: float = 0.0
    largest_cache: float = 0.0
    _cached: dict[tuple[int, int], int] = field(default_factory=dict)
    _started: set[int] = field(default_factory=set)
    _held: float = 0.0
    """Bytes cached now by all convolutions."""

    def through(self, number: int, frames: int, *, last: bool, above: float, unused: int = 0) -> None:
        """Simulate a piece of ``frames`` frames in stage ``number`` of the decoder and all later stages.

        ``last`` says that the piece ends the clip. ``above`` are the bytes that earlier stages hold
        meanwhile. The piece is a view of a tensor that is ``unused`` frames longer, whose memory counts too.
        """
        if frames == 0:
            return
        if number == len(self.stages):
            self._note(above)
            return
        stage = self.stages[number]
        # As in ``run_stages``: the growth of all later stages counts.
        step = max(1, int(self.piece / (stage.input * prod(one.growth for one in self.stages[number:]))))
        whole, left = (frames + unused) * stage.input, frames
        while left:
            now = min(step, left)
            ends = last and now == left
            outputs, dropped = self._run(number, now, ends, above + whole)
            left -= now
            # Pieces are views of one tensor, which is freed only with the last of them.
            held = above + (whole if left else 0.0)
            self.through(number + 1, outputs - dropped, last=ends, above=held, unused=dropped)

    def _run(self, number: int, frames: int, last: bool, above: float) -> tuple[int, int]:
        """Simulate the memory of one call of stage ``number`` with ``frames`` input frames.

        ``last`` says that they end the clip; ``above`` are the bytes that earlier stages hold meanwhile.
        Returns the number of output frames, and how many of these the stage drops.
        """
        stage = self.stages[number]
        if stage.kind == "plain":
            self._note(above + frames * stage.output)
            return frames, 0
        if stage.kind == "conv":
            return self._convolve(number, 0, frames, last, above, stage.output), 0
        if stage.kind == "head":
            self._note(above + 2 * frames * stage.input)
            outputs = self._convolve(number, 0, frames, last, above + frames * stage.input, stage.output)
            self._note(above + 2 * outputs * stage.output)
            return outputs, 0
        window = self._window(number, 0, frames, last, above, stage.input)
        wide, outputs = window * stage.input, max(0, window - _CACHED)
        if stage.kind == "residual":
            self._note(above + 3 * wide)
            self._kernel(stage, window, outputs, above + wide, stage.output)
            hidden = outputs * stage.output
            self._note(above + wide + 3 * hidden)
            return self._convolve(number, 1, outputs, last, above + wide + 2 * hidden, stage.output), 0
        self._kernel(stage, window, outputs, above, stage.inner)
        self._note(above + wide + 2 * outputs * stage.inner)
        if stage.residual:
            self._note(above + wide + outputs * (stage.inner + stage.input))
        # Upsampling in time drops the first frame of the clip, because the first latent frame stands for one
        # frame.
        first = stage.times == 2 and outputs > 0 and number not in self._started
        if first:
            self._started.add(number)
        return outputs * stage.times, int(first)

    def _convolve(
        self, number: int, which: int, frames: int, last: bool, above: float, out_bytes: float
    ) -> int:
        """Simulate the memory of one convolution, ``which`` (0 or 1), of stage ``number`` of the decoder.

        It gets ``frames`` new input frames, and also reads frames that it cached before; ``last`` says that
        the new ones end the clip. ``above`` are the bytes of all other tensors meanwhile. Returns the number
        of output frames, of which each has ``out_bytes``.
        """
        in_bytes = self.stages[number].input
        window = self._window(number, which, frames, last, above, in_bytes)
        out = max(0, window - _CACHED)
        self._kernel(self.stages[number], window, out, above, out_bytes)
        return out

    def _kernel(self, stage: _Stage, window: int, out: int, above: float, out_bytes: float) -> None:
        """Count the memory of a convolution from ``window`` to ``out`` frames: input, padded copy, output.

        Input frames are those of ``stage``. ``out_bytes`` are the bytes of one output frame, ``above`` those
        of all other tensors meanwhile.
        """
        if not out:
            return
        read, written = window * stage.input * (self.pad or 1), out * out_bytes
        self._note(above + window * stage.input * (1 + self.pad))
        self._note(above + read + written)
        if self.float32 and read / (4 * stage.columns) <= ONEDNN_SIZE:
            self._note(above + read + 3 * written)

    def _window(self, number: int, which: int, frames: int, last: bool, above: float, in_bytes: float) -> int:
        """How many frames convolution ``which`` of stage ``number`` reads for ``frames`` new input frames.

        Also updates the peak, and how many frames (each of ``in_bytes``) the convolution caches for the next
        piece of the clip. ``last`` says that there is no next piece; ``above`` are the bytes of all other
        tensors meanwhile.
        """
        before = self._cached.pop((number, which), None)
        count = self.centre if before is None else before
        if before is not None:
            self._held -= before * in_bytes
        window = count + frames + (last and self.centre < _CACHED)
        self._note(above + (count + window) * in_bytes)
        if not last:
            cached = min(window, _CACHED)
            self._cached[number, which] = cached
            self._held += cached * in_bytes
            self.largest_cache = max(self.largest_cache, self._held)
        self._note(above + window * in_bytes)
        return window

    def _note(self, bytes_: float) -> None:
        """Raise the peak to ``bytes_`` of activations plus all that is cached now, if that sum is larger."""
        self.peak = max(self.peak, bytes_ + self._held)
