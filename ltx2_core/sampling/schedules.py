"""Noise schedules: functions that return sigmas, float32 (steps + 1,), falling from at most 1 to 0."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

FEW_TOKENS, MANY_TOKENS = 1024, 4096


def as_sigmas(values: Sequence[float] | Tensor) -> Tensor:
    """A schedule, float32 on the CPU, from numbers; raises ValueError where :func:`validate_sigmas` does."""
    # Parsed in float64, so that a value is rounded once and equals the published list.
    sigmas = torch.as_tensor(values, dtype=torch.float64).flatten().to("cpu", torch.float32)
    validate_sigmas(sigmas)
    return sigmas


def validate_sigmas(sigmas: Tensor, *, partial: bool = False) -> None:
    """Raise ValueError unless ``sigmas`` (N + 1,), N >= 1, fall strictly within [0, 1] and end in 0.

    ``partial`` allows the first part of a split schedule, which ends above 0.
    """
    values = sigmas.tolist() if sigmas.ndim == 1 else []
    if len(values) < 2:
        raise ValueError(
            f"a schedule of shape {tuple(sigmas.shape)} has no step: "
            "give at least two sigmas in one row, such as 1, 0"
        )
    for index, value in enumerate(values):
        # The network was trained on noise levels from 0 to 1 only.
        if not 0 <= value <= 1:
            raise ValueError(f"sigma {value:g} at position {index} is outside [0, 1]")
        if index and value >= values[index - 1]:
            raise ValueError(
                f"sigma {value:g} at position {index} does not fall below {values[index - 1]:g} before it: "
                "give the sigmas from noise to clean"
            )
    if values[-1] != 0 and not partial:
        raise ValueError(f"the last sigma is {values[-1]:g} and must be 0: append 0 to finish the clip")


def finished(values: Sequence[float]) -> list[float]:
    """``values`` with a final 0, which is appended if they end above 0, as in diffusers."""
    return [*values, 0.0] if values and values[-1] > 0 else [*values]


def parse_sigmas(text: str) -> Tensor:
    """Parse sigmas between commas, semicolons or spaces, such as ``1, 0.725, 4e-1``.

    The final 0 is appended if it is missing. Raises ValueError for other text, and for a schedule that
    :func:`validate_sigmas` refuses.
    """
    words = [word for word in re.split(r"[\s,;]+", text.strip("[]() \t\n")) if word]
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(
            f"{error} in the sigmas {text!r}: write numbers between commas, such as 1, 0.5, 0"
        ) from None
    return as_sigmas(finished(values))


def ltxv_sigmas(
    steps: int,
    tokens: int = MANY_TOKENS,
    *,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    stretch: bool = True,
    terminal: float = 0.1,
) -> Tensor:
    """The schedule of LTX-2: uniform steps shifted towards noise, the more the larger the clip.

    Equal to the official ``LTX2Scheduler`` and to ComfyUI's ``LTXVScheduler``; the shift is that of FLUX.1.
    The shift mu is linear in ``tokens``, the number of video tokens: ``base_shift`` at 1024, ``max_shift`` at
    4096, and extrapolated beyond both; then ``sigma = e^mu / (e^mu + 1/u - 1)`` for u falling uniformly from
    1. With ``stretch`` all but the final 0 is scaled about 1 so that the last sigma before 0 is ``terminal``;
    a single step is 1, 0.
    """
    _check_steps(steps)
    if tokens < 1:
        raise ValueError(f"tokens={tokens} must be positive: frames x rows x columns of the video latent")
    if not 0 <= terminal < 1:
        raise ValueError(f"terminal={terminal} must be in [0, 1)")
    # One step has no second sigma to stretch to, and the official formula would divide 0 by 0.
    if steps == 1:
        return as_sigmas([1.0, 0.0])
    # Not clamped: both public implementations extrapolate for smaller and larger clips.
    mu = base_shift + (max_shift - base_shift) * (tokens - FEW_TOKENS) / (MANY_TOKENS - FEW_TOKENS)
    # Distances from 1, not sigmas: at many tokens sigmas round to 1 and their differences to 0.
    odds = 1 / torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1] - 1
    shrink = math.exp(-mu)
    # This form has no large exponential that could overflow for clips of very many tokens.
    from_one = shrink * odds / (1 + shrink * odds)
    if stretch:
        from_one = (1 - terminal) * odds / odds[-1] * (1 + shrink * odds[-1]) / (1 + shrink * odds)
    return as_sigmas([*(1 - from_one).tolist(), 0.0])


def linear_quadratic_sigmas(steps: int, *, threshold: float = 0.025) -> Tensor:
    """The schedule of LTX-Video from 0.9.5 on: equal steps to ``1 - threshold``, then a parabola to 0.

    The first half of ``steps``, rounded down, are the equal ones; the parabola begins with their slope (Movie
    Gen, arXiv 2410.13720). A single step is 1, 0.
    """
    _check_steps(steps)
    if steps == 1:
        return as_sigmas([1.0, 0.0])
    equal = steps // 2
    slope = threshold / equal
    left = steps - equal
    # The coefficient with which the parabola falls by the rest within the steps that are left.
    square = (equal - threshold * steps) / (equal * left**2)
    falls = [slope * n for n in range(equal)]
    falls += [threshold + slope * n + square * n**2 for n in range(left)]
    return as_sigmas([*(1 - fall for fall in falls), 0.0])


def partial_sigmas(schedule: Callable[[int], Tensor], steps: int, denoise: float) -> Tensor:
    """The last ``steps`` steps of a schedule of ``steps / denoise`` steps, to regenerate a clip in part.

    ``schedule`` makes the sigmas for a number of steps. With ``denoise`` 1 the result is the whole schedule,
    with 0.3 it is its last 30 per cent, which start at low noise. Raises ValueError unless ``denoise`` is
    above 0 and at most 1.
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise={denoise} must be above 0 and at most 1")
    _check_steps(steps)
    # Truncated like the BasicScheduler of ComfyUI.
    return schedule(int(steps / denoise))[-(steps + 1) :]


def last_sigmas(sigmas: Tensor, denoise: float) -> Tensor:
    """The end of the schedule ``sigmas``, to regenerate a clip in part.

    ``denoise`` is the share of the steps that are returned, at least one. Raises ValueError unless it is
    above 0 and at most 1.
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise={denoise} must be above 0 and at most 1")
    steps = max(1, round((len(sigmas) - 1) * denoise))
    return sigmas[-steps - 1 :]


def step_of(sigmas: Tensor, sigma: float) -> int:
    """The number, from 0, of the step of ``sigmas`` that starts at or above ``sigma`` and ends below it."""
    # A sampler may pass a sigma that differs from the float32 one of the schedule by rounding.
    return max(int((sigmas >= sigma - 1e-6).sum()) - 1, 0)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")


# The linear-quadratic schedule of Movie Gen (arXiv 2410.13720) at 8 steps: equal steps down to 0.975, then a
# parabola to 0 that starts with their slope.
DISTILLED_SIGMAS: Final = as_sigmas([1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0])
DISTILLED_STAGE2_SIGMAS: Final = as_sigmas([0.909375, 0.725, 0.421875, 0.0])

FIXED_SIGMAS: Final[dict[str, Tensor]] = {
    "distilled": DISTILLED_SIGMAS,
    "distilled_stage2": DISTILLED_STAGE2_SIGMAS,
    # From the ComfyUI templates and examples for 2.3.
    "stage2_2.3": as_sigmas([0.85, 0.725, 0.4219, 0.0]),
    "inpaint_stage2": as_sigmas([0.725, 0.4219, 0.0]),
    # From the official pipelines for HDR, for several GPUs and for temporal rounds.
    "hdr_stage2": as_sigmas([0.909375, 0.725, 0.0]),
    "tiled_stage2": as_sigmas([0.625, 0.4, 0.0]),
    "temporal_round": as_sigmas([0.975, 0.909375, 0.725, 0.421875, 0.0]),
    # From the configurations of LTX-Video, which have four digits.
    "ltxv_distilled": as_sigmas([1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219, 0.0]),
    "ltxv_distilled_first": as_sigmas([1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.0]),
    "ltxv_distilled_stage2": as_sigmas([0.9094, 0.725, 0.4219, 0.0]),
    "ltxv_13b_first": as_sigmas([*linear_quadratic_sigmas(30)[:27].tolist(), 0.0]),
    "ltxv_13b_stage2": as_sigmas(linear_quadratic_sigmas(30)[17:]),
}
"""The published lists by name; the two-step ones, ``temporal_round`` and those of a stage 2 refine a clip."""
