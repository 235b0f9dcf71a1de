"""The plan of a sampling step: which guidance passes it needs, which share a forward pass, in what order.

The library's denoiser and the guider of the ComfyUI nodes carry out the same plan, each with its own network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .guidance import Guidance, GuidanceAt, Pass
from .pass_group import PassGroup


@dataclass(frozen=True, kw_only=True)
class ActiveStreams:
    """Whether a step generates the video, whether it generates the audio, and whether the latent has both.

    ``both`` is True even if one of the two is preserved rather than generated.
    """

    video: bool
    audio: bool
    both: bool


@dataclass(frozen=True, kw_only=True)
class Batching:
    """What one forward pass of a network can do.

    ``size`` is how many guidance passes it may evaluate as one batch. With ``forks`` a forward pass can stop
    before a block, and another one can resume there from its hidden states. With ``joins`` a guidance pass
    that resumes can join the batch of others at that block; otherwise it takes a forward pass of its own.
    Guidance passes are divided among the processes of ``group``; None is this process alone.
    """

    size: int = 1
    forks: bool = True
    joins: bool = True
    group: PassGroup | None = None


@dataclass(frozen=True)
class PassCall:
    """One forward pass of the network, which evaluates ``passes`` as one batch in this order.

    With ``fork`` above 0 the perturbed pass reuses blocks of the conditional one, from which it differs only
    in block number ``fork`` and later: the conditional pass saves its hidden states before that block, and
    the perturbed pass resumes from them. 0 is no reuse.
    """

    passes: tuple[Pass, ...]
    fork: int = 0

    @property
    def whole(self) -> tuple[Pass, ...]:
        """The passes of this call that run from the first block on.

        All do, unless ``fork`` is above 0: then the perturbed pass starts at block number ``fork`` instead,
        from the hidden states that the conditional pass has before that block.
        """
        return tuple(which for which in self.passes if not self.fork or which is not Pass.PERTURBED)

    @property
    def saves(self) -> bool:
        """Whether this call saves the conditional pass's hidden states for the perturbed pass to resume from.

        They are those before block number ``fork``, the first block in which both passes differ; False if
        ``fork`` is 0.
        """
        return self.fork > 0 and Pass.CONDITIONAL in self.passes


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """What to compute in one step.

    ``passes`` are its guidance passes, ``calls`` the forward passes of this process in their order, and
    ``guidance`` combines the results. A step that all generated streams skip has no passes.
    """

    guidance: Guidance
    passes: tuple[Pass, ...]
    calls: tuple[PassCall, ...]
    skipped: tuple[bool, bool] = (False, False)
    """Whether video and audio repeat their last estimate."""
    reused: int = 0
    """How many more passes the step would take if no stream was skipped."""


def plan_passes(
    guidance: Guidance,
    streams: ActiveStreams,
    batching: Batching,
    *,
    skipped: tuple[bool, bool] = (False, False),
    negative: bool = False,
) -> StepPlan:
    """Plan one step: its guidance passes, and the forward passes that evaluate them.

    ``streams`` says which of video and audio are generated, ``batching`` what a forward pass can do.
    ``skipped`` is for (video, audio): a skipped stream repeats its last estimate. With ``negative`` the
    negative prompt is evaluated even if the guidance does not need it.
    """
    unskipped = needed_passes(guidance, streams, negative=negative)
    streams = replace(streams, video=streams.video and not skipped[0], audio=streams.audio and not skipped[1])
    idle = any(skipped) and not (streams.video or streams.audio)
    passes = () if idle else needed_passes(guidance, streams, negative=negative)
    return StepPlan(
        guidance=guidance,
        passes=passes,
        calls=_calls(guidance, passes, batching),
        skipped=skipped,
        reused=len(unskipped) - len(passes),
    )


def needed_passes(
    guidance: GuidanceAt, streams: ActiveStreams, *, negative: bool = False
) -> tuple[Pass, ...]:
    """The passes that ``guidance`` needs to generate ``streams``, in the order of ``Pass``.

    With ``negative`` the pass of the negative prompt is always among them.
    """
    needed = {*guidance.passes(video=streams.video, audio=streams.audio)}
    if not streams.both:
        # With one stream in the latent there is nothing between the streams to switch off, and the pass would
        # equal the conditional one.
        needed.discard(Pass.APART)
    if negative:
        needed.add(Pass.NEGATIVE)
    return tuple(which for which in Pass if which in needed)


def _calls(guidance: Guidance, passes: tuple[Pass, ...], batching: Batching) -> tuple[PassCall, ...]:
    own = passes if batching.group is None else tuple(batching.group.mine(passes))
    forked = batching.forks and {Pass.CONDITIONAL, Pass.PERTURBED} <= {*own}
    # Up to the first perturbed block both passes compute the same. A fork at block 0 saves nothing and reads
    # as no fork.
    fork = min(guidance.stg_blocks) if forked else 0
    # The perturbed pass reuses blocks of the conditional one, so it runs after it.
    last: list[Pass] = [which for which in own if which is Pass.PERTURBED]
    # Without the reference the audio has fewer tokens than in the other passes, and cannot share their batch.
    alone: list[Pass] = [which for which in own if which is Pass.UNREFERENCED]
    first: list[Pass] = [which for which in own if which not in (*last, *alone)]
    if fork and not batching.joins:
        batches = _batches(first, batching.size) + _batches(last, 1)
    else:
        batches = _batches(first + last, batching.size)
    shares = {Pass.CONDITIONAL, Pass.PERTURBED}
    return tuple(PassCall(batch, fork if shares & {*batch} else 0) for batch in batches + _batches(alone, 1))


def _batches(passes: list[Pass], size: int) -> list[tuple[Pass, ...]]:
    return [tuple(passes[start : start + size]) for start in range(0, len(passes), size)]
