"""What the masks and guides of a clip say, read once a run and not in every step.

The host passes masks and coordinates as tensors on the GPU. To ask one of them which of its values are equal,
or how many, the CPU waits until the GPU has computed all that was launched before.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...ltx2_core.conditioning.patchify import patchify_audio, patchify_video
from ...ltx2_core.conditioning.reference import beside_reference
from ...ltx2_core.transformer.timesteps import Groups, group_timesteps

KNOWN = "ltx2_known_clip"
"""The argument of the network that is the :class:`KnownClip` of its masks and guides."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class KnownClip:
    """Masks and guides of one conditioning, on the CPU; None for what it lacks.

    ``video`` (B, C, F, H, W) and ``audio`` (B, C, T, bins) are the denoise masks, ``keyframes`` (B, 3, guide
    tokens, 2) the coordinates of guides. The host evaluates conditionings together only if they are equal.
    """

    video: Tensor | None = None
    audio: Tensor | None = None
    keyframes: Tensor | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KnownClip) and all(
            _same(getattr(self, name), getattr(other, name)) for name in ("video", "audio", "keyframes")
        )

    __hash__ = object.__hash__

    @classmethod
    def of(cls, video: Tensor | None, audio: Tensor | None, keyframes: Tensor | None) -> KnownClip:
        """What these tensors say; on a GPU the CPU waits for each."""
        video, audio, keyframes = (None if t is None else t.detach().cpu() for t in (video, audio, keyframes))
        return cls(video, audio, keyframes)

    def fitting(
        self, video: Tensor | None, audio: Tensor | None, keyframes: Tensor | None = None
    ) -> KnownClip:
        """This if it describes tensors of these shapes, else what the tensors themselves say.

        A part of a clip, such as a context window, has masks of other shapes. None is not compared.
        """
        pairs = [(video, self.video), (audio, self.audio), (keyframes, self.keyframes)]
        fits = all(given is None or _fits(given, own) for given, own in pairs)
        return self if fits else KnownClip.of(video, audio, keyframes)

    def made(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """The result of ``make``, called once for each ``key``."""
        if key not in self._made:
            self._made[key] = make()
        found: _Made = self._made[key]
        return found

    def levels(self, stream: str, batch: int, dtype: torch.dtype, device: torch.device) -> Groups | None:
        """The tokens of equal mask of ``stream`` ("video" or "audio") in a batch, for the noise level 1.

        ``dtype`` is that of the mask in the call, by which its values are rounded. None if the mask is 1
        everywhere.
        """
        return self.made(
            ("levels", stream, batch, dtype, device), lambda: self._levels(stream, batch, dtype, device)
        )

    def beside(self, timestep: Tensor, tokens: int, clean: int, *, follows: bool) -> Groups:
        """The groups of ``tokens`` tokens of noise level ``timestep`` (B,) beside ``clean`` ones of level 0.

        The clean ones come first, or with ``follows`` last.
        """

        def levels() -> Groups:
            own, none = torch.ones(len(timestep), tokens), torch.zeros(len(timestep), clean)
            values = beside_reference(none, own, axis=1, follows=follows)
            return group_timesteps(values, values.shape[1], timestep.device)

        key = ("beside", len(timestep), tokens, clean, follows, timestep.device)
        return at_level(self.made(key, levels), timestep)

    def _levels(self, stream: str, batch: int, dtype: torch.dtype, device: torch.device) -> Groups | None:
        mask = self.video if stream == "video" else self.audio
        assert mask is not None
        # All channels of a token share one noise level, so the first channel of the mask decides.
        values = patchify_video(mask[:, :1]) if stream == "video" else patchify_audio(mask[:, :1, :, :1])
        if bool((values == 1).all()):
            return None
        values = values[..., 0].to(dtype).repeat(batch // len(values), 1)
        return group_timesteps(values, values.shape[1], device)


def at_level(levels: Groups, timestep: Tensor) -> Groups:
    """Groups of noise level 1 at the noise levels ``timestep`` (B,) of the samples."""
    # Every sample has groups of its own, of which all samples have as many.
    each = timestep.repeat_interleave(len(levels.timesteps) // len(timestep))
    return replace(levels, timesteps=levels.timesteps * each)


def with_groups(timesteps: Tensor, groups: Groups) -> Tensor:
    """``timesteps`` (B, N), which know that ``groups`` are those of their tokens.

    The host passes the tensor on as it is. Who computes another from it gets one that knows nothing.
    """
    timesteps.ltx2_groups = groups  # type: ignore[attr-defined]
    return timesteps


def groups_of(timesteps: Tensor) -> Groups | None:
    """The groups of tokens that :func:`with_groups` has noted; None if there are none."""
    return getattr(timesteps, "ltx2_groups", None)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(torch.equal(one, other))


def _fits(given: Tensor, own: Tensor | None) -> bool:
    return own is not None and own.shape[1:] == given.shape[1:] and len(given) % len(own) == 0
