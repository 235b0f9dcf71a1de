"""The denoiser: model, conditioning and guidance behind one call ``denoise(x, sigma) -> x0``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning.masks import blend, expand_mask
from ..transformer import Network
from ..types import AVLatent, LatentState, Numerics, TextContext
from .caching import Evaluations, Reuse
from .guidance import Guidance, GuidanceAt, Nag, Pass, check_blocks
from .guided_steps import GuidedSteps
from .inputs import ClipInputs
from .model_calls import ONE_BY_ONE, ModelCalls
from .pass_plan import ActiveStreams, StepPlan, needed_passes
from .passes import Passes
from .samplers.base import Estimates


@dataclass(frozen=True)
class ImageNoise:
    """Noise on preserved content, by which the model may move a still image (official LTX-Video).

    At noise level t it is ``scale`` t² times what ``draw`` returns: unit noise of the shape of a latent, new
    in each step.
    """

    scale: float
    draw: Callable[[AVLatent], AVLatent]


class Denoiser:
    """Predicts the clean latent x0 with a model; one object serves one run, with any sigmas and sampler.

    The latent is float32 throughout, whatever the dtype of the model. Where the mask is 0 the clean latent of
    the state comes back bit for bit.
    """

    def __init__(
        self,
        model: Network,
        state: LatentState,
        positive: TextContext,
        negative: TextContext | None = None,
        *,
        guidance: GuidanceAt | None = None,
        nag: Nag | None = None,
        numerics: Numerics = Numerics.OFFICIAL,
        sigmas: Tensor | None = None,
        calls: ModelCalls = ONE_BY_ONE,
        image_noise: ImageNoise | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: the diffusion transformer.
            state: the clean latent with its mask, guides and reference audio.
            positive, negative: the encoded prompts, with a batch of 1 or that of the state.
            guidance: None is no guidance, which takes one guidance pass per step.
            nag: makes the passes of the positive prompt avoid the negative one; None is off.
            numerics: which public implementation to reproduce where they differ.
            sigmas: the schedule, by which guidance with ``skip_steps`` counts the steps; else not needed.
            calls: how the model is called: dtype, passes per forward pass, caches.
            image_noise: noise on content that the mask preserves; None adds none.

        Raises ValueError if guidance or ``nag`` need a ``negative`` or ``sigmas`` that are missing, or a
        block that the model lacks; if both guidance and ``nag`` use the negative prompt; if the batch of a
        prompt does not fit.
        """
        self._numerics = numerics
        self._guidance: GuidanceAt = Guidance() if guidance is None else guidance
        self._sigmas = sigmas
        # Moved to float32 once, as every step reads it.
        self._clean = state.latent.to(dtype=torch.float32)
        self._mask = expand_mask(state.mask, state.latent).to(dtype=torch.float32)
        # A stream that the mask preserves as a whole needs no guidance pass of its own; it still counts for
        # the guidance that sets both streams apart.
        self._streams = ActiveStreams(
            video=_any(self._mask.video),
            audio=_any(self._mask.audio),
            both=self._mask.video is not None and self._mask.audio is not None,
        )
        self._guides = state.guides
        self._referenced = state.reference_audio is not None and self._clean.audio is not None
        self._check(model, negative, nag)
        # Only the negative pass reads another text; the others perturb the network or its input, not the
        # prompt.
        contexts = dict.fromkeys(self._guidance.passes(), positive)
        if negative is not None:
            contexts[Pass.NEGATIVE] = negative
        self._has_negative = negative is not None
        # Official LTX-Video guides velocities, and takes the mask as the highest noise level of a token.
        self._ltx_video = not (numerics.is_comfy or model.config.has_audio)
        if self._ltx_video:
            self._blending = self._mask.map(lambda mask: (mask > 0).float())
        else:
            self._blending = self._mask
        self._image_noise = image_noise
        # Asked once, since the CPU waits for the answer of a GPU.
        self._preserves = image_noise is not None and _any_below(self._mask)
        clip = ClipInputs(
            state,
            self._clean,
            self._mask,
            contexts,
            nag=nag,
            numerics=numerics,
            dtype=calls.dtype,
            limited=self._ltx_video,
        )
        self._device = clip.device
        self._passes = Passes(model, clip, calls)
        self._steps = GuidedSteps(self._guidance)
        self._reuse = None if calls.cache is None else Reuse(calls.cache, model)
        self._evaluated = self._reused = 0

    @property
    def evaluations(self) -> Evaluations:
        """How many guidance passes the model has evaluated in this run, and how many were reused."""
        return Evaluations(run=self._evaluated, reused=self._reused)

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent:
        """The guided x0 of ``x`` at noise level ``sigma`` in (0, 1]; the clean latent where the mask is 0."""
        clean = self._clean_at(sigma)
        return blend(clean, self._guided(x, sigma, clean, negative=False).x0, self._blending)

    def pair(self, x: AVLatent, sigma: float) -> Estimates:
        """The x0 that calling the denoiser returns, and the x0 of the negative prompt alone.

        The negative prompt is evaluated even if cfg is 1. Raises ValueError if there is no negative prompt.
        """
        if not self._has_negative:
            raise ValueError("this sampler needs a negative prompt at any cfg: pass its context")
        clean = self._clean_at(sigma)
        x0, negative = self._guided(x, sigma, clean, negative=True)
        # ComfyUI masks the result of guidance alone, and not the estimates that a sampler reads.
        if not self._numerics.is_comfy:
            negative = blend(clean, negative, self._blending)
        return Estimates(blend(clean, x0, self._blending), negative)

    def preserve(self, x: AVLatent) -> AVLatent:
        """``x``, to which a sampler has added noise, with the clean latent put back where the mask is 0.

        With ``Numerics.COMFY`` ``x`` is returned as it is: there the denoiser puts the clean latent back
        before each forward pass.
        """
        # There the network gets preserved content clean, whatever ``x`` has in its place.
        return x if self._numerics.is_comfy else blend(self._clean, x, self._blending)

    def _clean_at(self, sigma: float) -> AVLatent:
        """The content that the mask preserves, with the image noise of a step at noise level ``sigma``."""
        if self._image_noise is None or not self._preserves:
            return self._clean
        return self._clean + self._image_noise.draw(self._clean) * (self._image_noise.scale * sigma**2)

    def _guided(self, x: AVLatent, sigma: float, clean: AVLatent, *, negative: bool) -> Estimates:
        """The guided x0 of ``x`` at noise level ``sigma`` and that of the negative prompt, before masking.

        ``clean`` is what the mask preserves. With ``negative`` the negative prompt is evaluated even if the
        guidance does not need it; otherwise the second x0 may be that of the positive prompt. A stream (video
        or audio) that skips this step repeats its estimate of the last step that it did not skip.
        """
        plan = self._steps.plan(sigma, self._sigmas, self._streams, self._passes.batching, negative=negative)
        self._reused += plan.reused
        x = x.to(self._device, torch.float32)
        # Mask times sigma is the timestep of a token, and with it the noise that it has.
        removed: AVLatent | float = self._mask * sigma
        if self._numerics.is_comfy:
            # The model gets preserved content clean, and every cell loses the noise of the step, not its own.
            x, removed = blend(clean, x, self._mask), sigma
        elif self._ltx_video:
            # A token is not stepped before the noise level of the step has fallen to its own.
            x = blend(clean, x, self._blending)
            removed = self._mask.map(lambda mask: (mask > sigma - 1e-6).float() * sigma)
        velocities = self._velocities(x, sigma, plan) if plan.passes else {}
        if self._ltx_video:
            guided = self._steps.combine(plan, velocities)
            return Estimates(*(x - velocity * removed for velocity in guided))
        # All of these are float32, as in the official pipelines: in bfloat16 the estimate would have two or
        # three digits.
        return self._steps.combine(plan, {which: x - velocities[which] * removed for which in plan.passes})

    def _velocities(self, x: AVLatent, sigma: float, plan: StepPlan) -> Mapping[Pass, AVLatent]:
        """The velocity of ``x`` at ``sigma`` by each guidance pass of ``plan``."""
        velocities: Mapping[Pass, AVLatent]
        if self._reuse is None:
            velocities = self._passes.velocities(x, sigma, plan)
            self._evaluated += len(plan.passes)
        else:
            velocities, evaluated = self._reuse(
                sigma, plan.passes, lambda on_block: self._passes.velocities(x, sigma, plan, on_block)
            )
            self._evaluated += evaluated
            self._reused += len(plan.passes) - evaluated
        return velocities

    def _check(self, model: Network, negative: TextContext | None, nag: Nag | None) -> None:
        needed = needed_passes(self._guidance, self._streams)
        if Pass.UNREFERENCED in needed and not self._referenced:
            raise ValueError("identity guidance needs a reference audio: pass one, or use identity 0")
        if Pass.NEGATIVE in needed and negative is None:
            raise ValueError("cfg is not 1, which needs a negative prompt: pass its context, or use cfg 1")
        if nag is not None and negative is None:
            raise ValueError("nag needs a negative prompt: pass its context")
        if nag is not None and Pass.NEGATIVE in needed:
            raise ValueError("nag takes the place of cfg: use cfg 1 with it, or leave nag out")
        if self._guidance.skips and self._sigmas is None:
            raise ValueError("skip_steps counts the steps of a schedule: pass sigmas, or use skip_steps 0")
        if any(guide.generated for guide in self._guides) and not model.config.keyframe_embedding:
            raise ValueError(
                "this model cannot generate keyframes, which LTX-2.5 introduced: use one of its checkpoints, "
                "or leave the keyframes out"
            )
        if Pass.PERTURBED in needed:
            check_blocks(self._guidance, model.config.num_layers)


def _any_below(mask: AVLatent) -> bool:
    """Whether a denoise mask is below 1 anywhere, so that some content is conditioned."""
    return any(own is not None and bool((own < 1).any()) for own in (mask.video, mask.audio))


def _any(mask: Tensor | None) -> bool:
    """Whether a denoise mask is above 0 anywhere, so that its stream is generated; False for None."""
    return mask is not None and bool((mask > 0).any())
