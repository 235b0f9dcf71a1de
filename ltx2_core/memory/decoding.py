"""What the streaming video decoder holds, played through with numbers of frames in the place of tensors.

Letters: T frames of a piece; sizes are bytes of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Literal

from ..config import VideoVAEConfig
from ..video_vae.streaming import MAX_PIECE_BYTES, TAPS

_KEPT = TAPS - 1
_ENOUGH_LATENTS = 48
"""Longer clips than this decoder's view hold no more than one of this length."""

Kind = Literal["plain", "conv", "residual", "upsample", "head"]


@dataclass(frozen=True, kw_only=True)
class DecoderMemory:
    """Most bytes at once (``peak``), of them what is kept from piece to piece (``state``)."""

    peak: int
    state: int


def decoder_memory(
    vae: VideoVAEConfig,
    *,
    latent_frames: int,
    cells: tuple[int, int],
    itemsize: int,
    piece_bytes: int = MAX_PIECE_BYTES,
) -> DecoderMemory:
    """Of decoding a latent of ``latent_frames`` frames of ``cells`` rows and columns in pieces.

    Within 10 % of what ``Trace`` counts; the latent and the frames that are handed on do not count.
    """
    frames = min(latent_frames, _ENOUGH_LATENTS)
    return _played(vae, frames, cells, itemsize, piece_bytes)


@lru_cache(maxsize=256)
def _played(
    vae: VideoVAEConfig, frames: int, cells: tuple[int, int], itemsize: int, piece_bytes: int
) -> DecoderMemory:
    links = _links(vae, cells, itemsize)
    pad = (cells[0] + 2) * (cells[1] + 2) / (cells[0] * cells[1]) if vae.decoder_padding == "reflect" else 0.0
    play = _Play(links=links, piece=piece_bytes, pad=pad, centre=_KEPT if vae.causal_decoder else 1)
    play.through(0, frames, last=True, above=0)
    return DecoderMemory(peak=int(play.peak), state=int(play.most_kept))


@dataclass(frozen=True, kw_only=True)
class _Link:
    """One stage of the chain; ``given`` and ``made`` are the sizes of its input and output frames."""

    kind: Kind
    given: float
    made: float
    inner: float = 0.0
    """Output of its convolution for one frame."""
    growth: float = 1.0
    times: int = 1
    """Output frames for each input frame."""
    residual: bool = False


def _links(vae: VideoVAEConfig, cells: tuple[int, int], itemsize: int) -> list[_Link]:
    unit = cells[0] * cells[1] * itemsize
    width = vae.decoder_base_channels * prod(block.multiplier for block in vae.decoder_blocks)
    latent, now = vae.latent_channels * unit, float(width * unit)
    links = [
        _Link(kind="plain", given=latent, made=latent),
        _Link(kind="conv", given=latent, made=now, growth=max(1.0, width / vae.latent_channels)),
    ]
    for block in vae.decoder_blocks:
        if block.kind == "res_x":
            links += [_Link(kind="residual", given=now, made=now)] * block.num_layers
            continue
        cell = prod(block.strides)
        inner = now / block.multiplier * cell
        links.append(
            _Link(
                kind="upsample",
                given=now,
                made=inner / block.strides[0],
                inner=inner,
                growth=max(1.0, cell / block.multiplier),
                times=block.strides[0],
                residual=block.residual,
            )
        )
        now = inner / block.strides[0]
        width //= block.multiplier
    pixels = now / width * vae.channels * vae.patch_size**2
    links.append(_Link(kind="head", given=now, made=pixels))
    return links


@dataclass(kw_only=True)
class _Play:
    """One pass: which frames every convolution keeps, and the most that there was at once."""

    links: list[_Link]
    piece: int
    pad: float
    """Size of a reflected input over that of the input; 0 where the convolution pads itself."""
    centre: int
    peak: float = 0.0
    most_kept: float = 0.0
    _kept: dict[tuple[int, int], int] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _held: float = 0.0
    """What is kept now."""

    def through(self, number: int, frames: int, *, last: bool, above: float, unused: int = 0) -> None:
        """Take a piece of ``frames`` through the links from ``number`` on, beside ``above`` bytes.

        It is a view of a tensor with ``unused`` frames more.
        """
        if frames == 0:
            return
        if number == len(self.links):
            self._note(above)
            return
        link = self.links[number]
        step = max(1, int(self.piece / (link.given * prod(one.growth for one in self.links[number:]))))
        whole, left = (frames + unused) * link.given, frames
        while left:
            now = min(step, left)
            ends = last and now == left
            made, dropped = self._run(number, now, ends, above + whole)
            left -= now
            # Pieces are views: the whole of them is there until the last one is used up.
            beside = above + (whole if left else 0.0)
            self.through(number + 1, made - dropped, last=ends, above=beside, unused=dropped)

    def _run(self, number: int, frames: int, last: bool, beside: float) -> tuple[int, int]:
        """Frames that a link makes of ``frames``, and how many of them it then leaves out."""
        link = self.links[number]
        if link.kind == "plain":
            self._note(beside + frames * link.made)
            return frames, 0
        if link.kind == "conv":
            return self._convolve(number, 0, frames, last, beside, link.made), 0
        if link.kind == "head":
            self._note(beside + 2 * frames * link.given)
            made = self._convolve(number, 0, frames, last, beside + frames * link.given, link.made)
            self._note(beside + 2 * made * link.made)
            return made, 0
        window = self._window(number, 0, frames, last, beside, link.given)
        wide, made = window * link.given, max(0, window - _KEPT)
        if link.kind == "residual":
            self._note(beside + 3 * wide)
            self._kernel(window, made, beside + wide, link.given, link.made)
            hidden = made * link.made
            self._note(beside + wide + 3 * hidden)
            return self._convolve(number, 1, made, last, beside + wide + 2 * hidden, link.made), 0
        self._kernel(window, made, beside, link.given, link.inner)
        self._note(beside + wide + 2 * made * link.inner)
        if link.residual:
            self._note(beside + wide + made * (link.inner + link.given))
        first = link.times == 2 and made > 0 and number not in self._begun
        if first:
            self._begun.add(number)
        return made * link.times, int(first)

    def _convolve(self, number: int, which: int, frames: int, last: bool, beside: float, made: float) -> int:
        """Output frames of a convolution."""
        given = self.links[number].given
        window = self._window(number, which, frames, last, beside, given)
        out = max(0, window - _KEPT)
        self._kernel(window, out, beside, given, made)
        return out

    def _kernel(self, window: int, out: int, beside: float, given: float, made: float) -> None:
        if out:
            self._note(beside + window * given * (1 + self.pad))
            self._note(beside + window * given * (self.pad or 1) + out * made)

    def _window(self, number: int, which: int, frames: int, last: bool, beside: float, given: float) -> int:
        """Frames that a convolution sees; what it keeps afterwards is accounted for."""
        before = self._kept.pop((number, which), None)
        count = self.centre if before is None else before
        if before is not None:
            self._held -= before * given
        window = count + frames + (last and self.centre < _KEPT)
        self._note(beside + (count + window) * given)
        if not last:
            kept = min(window, _KEPT)
            self._kept[number, which] = kept
            self._held += kept * given
            self.most_kept = max(self.most_kept, self._held)
        self._note(beside + window * given)
        return window

    def _note(self, bytes_: float) -> None:
        self.peak = max(self.peak, bytes_ + self._held)
