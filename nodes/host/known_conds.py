"""A conditioning of the host that says what masks and guides are, whichever node exchanges them."""

from __future__ import annotations

from collections.abc import Mapping

from comfy.conds import CONDConstant, CONDRegular
from torch import Tensor

from .known_clip import KnownClip

VIDEO_MASK, AUDIO_MASK = "denoise_mask", "audio_denoise_mask"
"""Names of the host for the denoise masks of both streams."""


class KnownConds(CONDConstant):
    """The :class:`KnownClip` of ``masks``, a conditioning's denoise masks by name, and of ``keyframes``.

    ``keyframes`` (B, 3, guide tokens, 2) are the coordinates of guides, or None. The host asks for
    this constant in every step. Other nodes may set another mask before a step, as *Dynamic Conditioning* of
    ComfyUI-LTXVideo does: a mask that is another tensor is read again, for which the CPU waits.
    """

    def __init__(self, masks: Mapping[str, CONDRegular], keyframes: Tensor | None) -> None:
        self._masks, self._keyframes = masks, keyframes
        self._read_masks()

    def process_cond(self, batch_size: int, **area: object) -> CONDConstant:
        """The constant for a call of the network; ``batch_size`` and ``area`` change nothing in it."""
        if any(mask.cond is not self._read.get(name) for name, mask in self._masks.items()):
            self._read_masks()
        return CONDConstant(self.cond)

    def _copy_with(self, cond: KnownClip) -> CONDConstant:
        return CONDConstant(cond)

    def _read_masks(self) -> None:
        self._read = {name: mask.cond for name, mask in self._masks.items()}
        self.cond = KnownClip.of(self._read.get(VIDEO_MASK), self._read.get(AUDIO_MASK), self._keyframes)
