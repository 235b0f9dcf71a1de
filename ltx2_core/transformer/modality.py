"""One stream as input of the transformer, and its masks as attention biases.

Letters: B batch, N tokens, C token channels, S text tokens, K text width, A position axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .guided import GuideBias, GuideWeights, log_weights
from .nag import NegativeText
from .timed_texts import TimedTexts
from .timesteps import Groups


@dataclass(frozen=True, kw_only=True)
class Modality:
    """Video or audio tokens with their timesteps, positions and text.

    - ``tokens`` (B, N, C) set the dtype and device of the computation.
    - ``timesteps`` (B, N) in [0, 1] are the noise level of each token, or (B, 1) where all of a sample agree,
      which is faster.
    - ``groups`` are the tokens that share one of ``timesteps``, if the caller has found them before: to find
      them makes the CPU wait for a GPU. With None the transformer looks for them.
    - ``sigma`` (B,) in [0, 1] is the noise level of each sample. It modulates the text, and decides how much
      the other stream takes from this one.
    - ``positions`` (B or 1, A, N, 2) float32 are the start and the end of each token on A axes: seconds, and
      for video also pixel rows and pixel columns.
    - ``context`` (B, S, K) is the text.
    - ``context_mask`` (B, S) is 1 on text to attend to, 0 elsewhere; a floating mask is added to the logits.
      None attends to all.
    - ``attention_mask`` (B, N, N) has a weight for each query (row) and key (column): 0 is no attention, 1 is
      plain. ``GuideWeights`` do the same for guides at the end of a video, in far less memory. None is plain.
    - ``keyframes`` (B, N, 1) is above 0 on tokens that stand for a single pixel frame: those of the first
      latent frame, and of keyframes that the model generates itself next to the clip. None marks none;
      ignored before LTX-2.5.
    - ``negative`` is a negative text for normalized attention guidance, instead of a guidance pass, or None.
    - ``timed`` are several texts, each for the tokens of its time, in place of ``context`` and without a
      mask; None is one text for all tokens.
    - a stream that is not ``enabled`` is not changed; the other one attends to it.
    """

    tokens: Tensor
    timesteps: Tensor
    sigma: Tensor
    positions: Tensor
    context: Tensor
    context_mask: Tensor | None = None
    attention_mask: Tensor | GuideWeights | None = None
    keyframes: Tensor | None = None
    negative: NegativeText | None = None
    timed: TimedTexts | None = None
    enabled: bool = True
    groups: Groups | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise ValueError(
                f"tokens must be (B, N, C); got {tuple(self.tokens.shape)}. Patchify the latent first."
            )
        batch, count, _ = self.tokens.shape
        # One value for a sample is an input of its own, since equal timesteps need one set of modulation
        # parameters.
        if self.timesteps.shape not in ((batch, count), (batch, 1)):
            raise ValueError(
                f"timesteps must be ({batch}, {count}) or ({batch}, 1) for these tokens; "
                f"got {tuple(self.timesteps.shape)}"
            )
        if self.sigma.shape != (batch,):
            raise ValueError(f"sigma must be one value a sample, ({batch},); got {tuple(self.sigma.shape)}")
        if self.positions.ndim != 4 or self.positions.shape[2:] != (count, 2):
            raise ValueError(
                f"positions must be (B, axes, {count}, 2) for these tokens; got {tuple(self.positions.shape)}"
            )
        if self.timed is not None and len(self.timed.first) != count:
            raise ValueError(f"timed has {len(self.timed.first)} tokens and the stream {count}")


def context_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Text mask (B, S) -> bias (B, 1, 1, S) of attention logits: 0 where it is 1, very low where it is 0.

    S text tokens. A floating mask is a bias already, and is only reshaped and cast to ``dtype``; None stays
    None.
    """
    if mask is None:
        return None
    if not mask.is_floating_point():
        # The lowest finite number and not -inf, as the official code has it.
        mask = (mask.to(dtype) - 1) * torch.finfo(dtype).max
    return mask.to(dtype)[:, None, None, :]


def attention_bias(
    mask: Tensor | GuideWeights | None, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor | GuideBias | None:
    """Attention weights ``mask`` (B, N, N) -> bias (B, 1, N, N) of the logits: their logarithms in ``dtype``.

    :class:`GuideWeights` become a :class:`GuideBias` on ``device``; None stays None.
    """
    if mask is None:
        return None
    if isinstance(mask, GuideWeights):
        return mask.bias(dtype, device)
    # One head axis, over which the bias broadcasts.
    return log_weights(mask, dtype).unsqueeze(1)
