"""Guidance from step to step: plans each step, combines its estimates and repeats those of skipped steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..types import AVLatent
from .guidance import GuidanceAt, Pass
from .pass_plan import ActiveStreams, Batching, StepPlan, plan_passes
from .samplers.base import Estimates
from .schedules import step_of


class GuidedSteps:
    """Plans the steps of one run with ``guidance``, and combines the estimates of their guidance passes.

    The first step is always evaluated, even if ``skip_steps`` of the guidance skips it.
    """

    def __init__(self, guidance: GuidanceAt) -> None:
        self._guidance = guidance
        self._last: Estimates | None = None

    def plan(
        self,
        sigma: float,
        sigmas: Tensor | None,
        streams: ActiveStreams,
        batching: Batching,
        *,
        negative: bool = False,
    ) -> StepPlan:
        """The guidance passes and forward passes of the step at noise level ``sigma``.

        ``sigmas`` is the whole schedule; with None no step is skipped. ``streams`` says which of video and
        audio are generated, ``batching`` how many passes a forward pass may evaluate. With ``negative`` the
        negative prompt is evaluated even if the guidance does not need it.
        """
        guidance = self._guidance.at(sigma)
        skipped = (False, False)
        # The first step has no estimate that it could repeat.
        if self._last is not None and sigmas is not None:
            skipped = guidance.skipped(step_of(sigmas, sigma))
        return plan_passes(guidance, streams, batching, skipped=skipped, negative=negative)

    def combine(self, plan: StepPlan, x0: Mapping[Pass, AVLatent]) -> Estimates:
        """The guided x0 of a step, and that of the negative prompt, from ``x0``, the estimates of its passes.

        The second is the conditional estimate if the negative prompt was not evaluated. Streams that the plan
        skips have the estimates of the last step.
        """
        last = self._last
        if last is not None and not plan.passes:
            return last
        guided = plan.guidance.combine(x0)
        negative = x0.get(Pass.NEGATIVE, x0[Pass.CONDITIONAL])
        # A stream that skips the step repeats its own last estimate, while the other one is new.
        if last is not None:
            guided = _repeat(guided, last.x0, plan.skipped)
            negative = _repeat(negative, last.negative, plan.skipped)
        self._last = Estimates(guided, negative)
        return self._last


def _repeat(new: AVLatent, last: AVLatent, skipped: tuple[bool, bool]) -> AVLatent:
    """``new``, with those streams taken from ``last`` that are skipped; ``skipped`` is for (video, audio)."""
    return AVLatent(last.video if skipped[0] else new.video, last.audio if skipped[1] else new.audio)
