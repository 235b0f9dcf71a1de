"""The denoiser: model, conditioning and guidance behind one call ``denoise(x, sigma) -> x0``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..conditioning.masks import blend, expand_mask
from ..transformer import Network, OnBlock
from ..transformer.tiles import Tiles
from ..types import AVLatent, LatentState, Numerics, TextContext
from .caching import Evaluations, Reuse, StepCache
from .guidance import Guidance, GuidanceAt, Nag, Pass
from .inputs import ClipInputs
from .pass_group import PassGroup
from .passes import Passes
from .samplers.base import Estimates
from .schedules import step_of
from .skipping import Skipping


class Denoiser:
    """Predicts x0 of a state with a model; one object serves one run, at any sigmas and with any sampler.

    The latent is float32 throughout, the model sees ``dtype``. Where the mask is 0 the given content comes
    back bit for bit. ``passes_per_call`` is how many passes of a step one call of the model may evaluate, for
    more memory; the result is the same, bit for bit in float32 on the CPU. The processes of a ``pass_group``
    share the passes. ``nag`` lets the model read the negative prompt in the passes of the positive one.
    ``cache`` reuses velocities between steps, ``tiles`` shows the model a large frame in parts. ``sigmas`` is
    the schedule, by which guidance with ``skip_steps`` counts steps. ``text_keys`` keeps what the model makes
    of the text from step to step (``text_keys_bytes`` says how much that is). ``on_block`` is called before
    each block of the model and may raise to stop within a step.
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
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        passes_per_call: int = 1,
        pass_group: PassGroup | None = None,
        cache: StepCache | None = None,
        tiles: Tiles | None = None,
        sigmas: Tensor | None = None,
        text_keys: bool = False,
        on_block: OnBlock | None = None,
    ) -> None:
        """``device`` is where model and latents are, by default that of the state.

        Raises ValueError if the guidance or ``nag`` needs a ``negative`` that is not given, a block that the
        model lacks or ``sigmas``, if both use the negative prompt, if a context has neither one sample nor as
        many as the state, or for a ``cache`` with ``tiles``.
        """
        if cache is not None and tiles is not None:
            raise ValueError("the step cache does not know tiles: use one of the two")
        if passes_per_call < 1:
            raise ValueError(f"passes_per_call={passes_per_call} must be at least 1, which is one by one")
        self._numerics = numerics
        self._guidance: GuidanceAt = Guidance() if guidance is None else guidance
        self._sigmas = sigmas
        self._clean = state.latent.to(device, torch.float32)
        self._mask = expand_mask(state.mask, state.latent).to(device, torch.float32)
        self._generated = _any(self._mask.video), _any(self._mask.audio)
        self._referenced = state.reference_audio is not None and self._clean.audio is not None
        self._check(model, negative, nag)
        contexts = dict.fromkeys(self._guidance.passes(), positive)
        if negative is not None:
            contexts[Pass.NEGATIVE] = negative
        self._has_negative = negative is not None
        clip = ClipInputs(state, self._clean, self._mask, contexts, nag=nag, numerics=numerics, dtype=dtype)
        self._device = clip.device
        self._passes = Passes(
            model,
            clip,
            per_call=passes_per_call,
            tiles=tiles,
            group=pass_group,
            text_keys=text_keys,
            on_block=on_block,
        )
        self._reuse = None if cache is None else Reuse(cache, model)
        self._skipping = Skipping()
        self._evaluated = self._reused = 0

    @property
    def evaluations(self) -> Evaluations:
        """How many passes the model has evaluated since this was made, and how many were reused."""
        return Evaluations(run=self._evaluated, reused=self._reused)

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent:
        """x0 of ``x`` at noise level ``sigma`` in (0, 1], guided and with the given content in place."""
        return blend(self._clean, self._guided(x, sigma, negative=False).x0, self._mask)

    def pair(self, x: AVLatent, sigma: float) -> Estimates:
        """x0 as from a call, and what the negative prompt alone gives, evaluated whatever the guidance.

        Raises ValueError if there is no negative context.
        """
        if not self._has_negative:
            raise ValueError("this sampler needs a negative prompt at any cfg: give its context")
        x0, negative = self._guided(x, sigma, negative=True)
        if self._numerics is Numerics.OFFICIAL:
            negative = blend(self._clean, negative, self._mask)
        return Estimates(blend(self._clean, x0, self._mask), negative)

    def keep(self, x: AVLatent) -> AVLatent:
        """Blend the given content into a state to which a sampler has added noise."""
        return x if self._numerics is Numerics.COMFY else blend(self._clean, x, self._mask)

    def _guided(self, x: AVLatent, sigma: float, *, negative: bool) -> Estimates:
        """The guided estimate before the given content, and that of the negative prompt if it is asked for.

        Streams whose step is skipped have those of the last step that was not.
        """
        guidance = self._guidance.at(sigma)
        step = 0 if self._sigmas is None else step_of(self._sigmas, sigma)
        skipped = self._skipping.streams(guidance, step)
        video, audio = (one and not s for one, s in zip(self._generated, skipped, strict=True))
        due = self._due(guidance, self._generated, negative)
        if any(skipped) and not (video or audio):
            self._reused += len(due)
            return Estimates(*self._skipping.join(None, skipped))
        passes = self._due(guidance, (video, audio), negative)
        self._reused += len(due) - len(passes)
        x0 = self._estimates(x, sigma, guidance, passes)
        made = Estimates(guidance.combine(x0), x0.get(Pass.NEGATIVE, x0[Pass.CONDITIONAL]))
        return Estimates(*self._skipping.join(made, skipped))

    def _estimates(
        self, x: AVLatent, sigma: float, guidance: Guidance, passes: tuple[Pass, ...]
    ) -> dict[Pass, AVLatent]:
        """The clean estimates of a step, before guidance and given content."""
        x = x.to(self._device, torch.float32)
        taken: AVLatent | float = self._mask * sigma
        if self._numerics is Numerics.COMFY:
            # Kept content is shown clean, and the noise of the step is taken off whatever a cell's own level.
            x, taken = blend(self._clean, x, self._mask), sigma
        velocities: Mapping[Pass, AVLatent]
        if self._reuse is None:
            velocities = self._passes.velocities(x, sigma, guidance, passes)
            self._evaluated += len(passes)
        else:
            velocities, evaluated = self._reuse(
                sigma,
                passes,
                lambda watch: self._passes.velocities(x, sigma, guidance, passes, watch),
            )
            self._evaluated += evaluated
            self._reused += len(passes) - evaluated
        return {which: x - velocities[which] * taken for which in passes}

    def _due(
        self, guidance: GuidanceAt, wanted: tuple[bool, bool], negative: bool = False
    ) -> tuple[Pass, ...]:
        """The passes of the guidance, less those that only streams ask for which are not ``wanted``."""
        both = self._mask.video is not None and self._mask.audio is not None
        passes = {*guidance.passes(video=wanted[0], audio=wanted[1])} - (set() if both else {Pass.APART})
        return tuple(which for which in Pass if which in passes or (negative and which is Pass.NEGATIVE))

    def _check(self, model: Network, negative: TextContext | None, nag: Nag | None) -> None:
        needed = self._due(self._guidance, self._generated)
        if Pass.UNREFERENCED in needed and not self._referenced:
            raise ValueError("identity guidance needs a reference sound: give one, or use identity 0")
        if Pass.NEGATIVE in needed and negative is None:
            raise ValueError("cfg is not 1, which needs a negative prompt: give its context, or use cfg 1")
        if nag is not None and negative is None:
            raise ValueError("nag needs a negative prompt: give its context")
        if nag is not None and Pass.NEGATIVE in needed:
            raise ValueError("nag takes the place of cfg: use cfg 1 with it, or leave nag out")
        if self._guidance.skips and self._sigmas is None:
            raise ValueError("skip_steps counts the steps of a schedule: give sigmas, or use skip_steps 0")
        layers, skipped = model.config.num_layers, self._guidance.perturbed_blocks
        if Pass.PERTURBED in needed and not all(0 <= block < layers for block in skipped):
            raise ValueError(
                f"stg_blocks {sorted(skipped)} are not all among the {layers} blocks of this model: "
                f"use numbers from 0 to {layers - 1}"
            )


def _any(mask: Tensor | None) -> bool:
    """Whether something of a stream is generated."""
    return mask is not None and bool((mask > 0).any())
