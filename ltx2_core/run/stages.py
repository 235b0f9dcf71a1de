"""Plans the sampling runs of a request: the size, sigmas, sampler and guidance of each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from ..conditioning.slots import check_keyframes, spread_keyframes
from ..sampling.guidance import CFG, Guidance, GuidanceSchedule, Nag, Pass, StreamGuidance
from ..sampling.samplers import PAIRED
from ..sampling.schedules import (
    FIXED_SIGMAS,
    as_sigmas,
    last_sigmas,
    linear_quadratic_sigmas,
    ltxv_sigmas,
    partial_sigmas,
)
from ..shapes import AUTO, SPATIAL_SCALE, TEMPORAL_SCALE, ClipPlan, Snap, frames_of, plan_clip
from ..types import AVLatent, Numerics
from .dfr_layout import Tile
from .recipes import DEFAULT, Recipe, of_kind
from .request import Request
from .stage_spans import OVERLAPS, spans


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One sampling run of a request.

    ``clip`` is the size and length that the stage samples, ``finished`` that of the finished clip of the run.
    ``sigmas`` (N + 1,) are its noise levels, for N steps. ``image_strength`` is how much of the first image
    is preserved, from 0 to 1. ``eta`` is the share of fresh noise that the sampler adds in each step; None is
    the sampler's default. ``noise_by_token`` draws that noise token by token, as the official pipelines do,
    and not channel by channel. ``nag`` is normalised attention guidance, None without. ``image_noise`` is the
    noise on preserved content (LTX-Video), ``adain`` how far a stage begins with the statistics of the one
    before. ``keyframes`` are the pixel frames of the keyframes that are generated next to the clip (LTX-2.5).

    Further fields are for the DFR pipeline. ``tile`` is the part of the clip that the stage samples in
    temporal round number ``round``; None samples the whole clip. ``step_seed`` is added to the run's seed for
    the noise that the sampler adds in steps; None continues the random generator of the stage before.
    ``reference_tokens`` is how many tokens of a reference the stage has.

    ``split`` is how many tiles the stage is divided into along time, height and width each, for HDR clips; 1
    samples it whole. ``start_seed`` is added to the run's seed for the first noise of a tile; None continues
    the random generator of the stage before.
    """

    clip: ClipPlan
    finished: ClipPlan
    sigmas: Tensor
    guidance: Guidance | GuidanceSchedule
    image_strength: float
    sampler: str = "euler"
    eta: float | None = None
    nag: Nag | None = None
    image_noise: float = 0.0
    adain: float = 0.0
    noise_by_token: bool = False
    keyframes: tuple[int, ...] = ()
    tile: Tile | None = None
    round: int = 0
    step_seed: int | None = None
    reference_tokens: int = 0
    split: int = 1
    start_seed: int | None = None

    @property
    def sampled(self) -> ClipPlan:
        """``clip``, made longer by the latent frames that keyframes and the reference add.

        Memory is estimated from it, because the transformer computes their tokens too. Of a stage in tiles it
        is the largest tile.
        """
        if self.split > 1:
            return self._largest_tile()
        cells = self.clip.latent_width * self.clip.latent_height
        keyframes = len(self.keyframes) + (0 if self.tile is None else len(self.tile.anchors))
        more = keyframes + math.ceil(self.reference_tokens / cells)
        return replace(self.clip, frames=self.clip.frames + TEMPORAL_SCALE * more) if more else self.clip

    def _largest_tile(self) -> ClipPlan:
        """The size and length of the largest tile of a divided stage."""
        sizes = (self.clip.latent_frames, self.clip.latent_height, self.clip.latent_width)
        frames, rows, columns = (
            max(stop - start for start, stop in spans(size, self.split, overlap))
            for size, overlap in zip(sizes, OVERLAPS, strict=True)
        )
        return replace(
            self.clip,
            width=columns * SPATIAL_SCALE,
            height=rows * SPATIAL_SCALE,
            frames=frames_of(frames),
        )

    @property
    def guided(self) -> bool:
        """Whether a sampling step has more guidance passes than that of the prompt."""
        return len(self.guidance.passes()) > 1

    @property
    def needs_negative(self) -> bool:
        """Whether the stage uses the negative prompt: for guidance, for nag, or for its sampler."""
        return Pass.NEGATIVE in self.guidance.passes() or self.nag is not None or self.sampler in PAIRED


def plan_stages(
    request: Request,
    numerics: Numerics = Numerics.OFFICIAL,
    recipe: Recipe = DEFAULT,
    *,
    enlargement: Fraction = Fraction(2),
) -> tuple[Stage, ...]:
    """Plan the stages of ``request``; the last one has the size of the finished clip.

    ``numerics`` decides the schedule where official pipelines and ComfyUI differ, and ``recipe`` (a table of
    default settings) fills in what the request leaves open. ``enlargement`` is the factor by which the
    upscaler enlarges width and height between two stages. Raises ValueError for sizes, lengths and schedules
    that cannot be planned.
    """
    recipe = of_kind(recipe, distilled=request.sampling.distilled)
    request, _ = request.with_recipe(recipe)
    sampling, staging, image = request.sampling, request.staging, request.inputs.image
    clip = _clip(request, numerics, recipe)
    # Planned backwards: the user names the size of the result, and the upscaler fixes that of the first
    # stage.
    first = clip if staging.count == 1 else clip.before(enlargement)
    guidance = _first_guidance(request)
    reads_negative = Pass.NEGATIVE in guidance.passes()
    assert sampling.sampler is not None
    stage = Stage(
        clip=first,
        finished=clip,
        keyframes=keyframes_in(sampling.generated_keyframes, clip.frames),
        sigmas=_first_sigmas(request, first, numerics, recipe),
        guidance=guidance,
        image_strength=recipe.image_strength if image.strength is None else image.strength,
        sampler=sampling.sampler,
        eta=sampling.eta,
        noise_by_token=recipe.noise_by_token and not numerics.is_comfy,
        image_noise=0.0 if numerics.is_comfy else recipe.image_noise,
        # A pass of its own avoids the negative prompt already, and the denoiser refuses both.
        nag=None if reads_negative else sampling.nag,
    )
    if staging.count == 1:
        return (stage,)
    fixed = FIXED_SIGMAS[recipe.stage2_sigmas]
    sampler = staging.sampler or ("euler" if stage.guided else sampling.sampler)
    return stage, replace(
        stage,
        clip=clip,
        # The official pipelines generate keyframes in the first stage.
        keyframes=(),
        sigmas=fixed if staging.sigmas is None else as_sigmas(staging.sigmas),
        adain=0.0 if numerics.is_comfy else recipe.adain,
        # The second stage of the official pipelines runs distilled weights, which have guidance built in.
        guidance=_second_guidance(recipe),
        # The published graphs weaken the image in the first stage alone.
        image_strength=(
            recipe.stage2_image_strength if image.stage2_strength is None else image.stage2_strength
        ),
        sampler=sampler,
        # The eta of a request is for the sampler of the first stage.
        eta=sampling.eta if sampler == sampling.sampler else None,
        # Without guidance nothing else makes this stage avoid the negative prompt.
        nag=sampling.nag,
        split=staging.tiles,
    )


def keyframes_in(generated: Sequence[int] | int | None, frames: int) -> tuple[int, ...]:
    """The pixel frames, ascending, of the keyframes to generate next to a clip of ``frames`` pixel frames.

    ``generated`` is their number, to be spread evenly, or their frames, where -1 is the last; None is none.
    Raises ValueError for more keyframes than frames between the first and the last, for frames outside the
    clip, and for frames that do not ascend.
    """
    if generated is None:
        return ()
    if isinstance(generated, int):
        if generated > frames - 2:
            raise ValueError(
                f"generated_keyframes={generated} are more than lie between the first and the last of "
                f"{frames} frames: use at most {max(0, frames - 2)}"
            )
        return spread_keyframes(generated, frames)
    placed = tuple(frame + frames if frame < 0 else frame for frame in generated)
    try:
        check_keyframes(placed, frames)
    except ValueError as error:
        raise ValueError(f"generated_keyframes={[*generated]}: {error}") from None
    return placed


def _clip(request: Request, numerics: Numerics, recipe: Recipe) -> ClipPlan:
    """Plan the size and length of the finished clip of ``request``, whose open values a recipe has filled in.

    They are those of its latents, if it starts from video latents. If the length is to be predicted, it is
    that of ``recipe`` until then. Raises ValueError for sizes and lengths that cannot be planned.
    """
    size, latents = request.size, request.inputs.latents
    assert size.fps is not None
    if latents is not None and latents.video is not None:
        return _clip_of(latents, size.fps, numerics)
    assert size.width is not None
    assert size.height is not None
    return plan_clip(
        size.width,
        size.height,
        frames=recipe.num_frames if size.auto else size.num_frames,
        seconds=None if size.seconds == AUTO else size.seconds,
        fps=size.fps,
        snap=size.snap,
        stages=request.staging.count,
        numerics=numerics,
    )


def _clip_of(latents: AVLatent, fps: float, numerics: Numerics) -> ClipPlan:
    """Return the size and length of the clip whose latents are ``latents``, the input of a request.

    ``fps`` is its frame rate, which latents do not hold, and ``numerics`` decides how the length of the audio
    is rounded. Raises ValueError if the audio latent is not as long as the video.
    """
    assert latents.video is not None
    _, _, frames, height, width = latents.video.shape
    clip = plan_clip(
        width * SPATIAL_SCALE,
        height * SPATIAL_SCALE,
        frames=frames_of(frames),
        fps=fps,
        # Latents are on the grid already, so rounding could only hide a mistake.
        snap=Snap.ERROR,
        numerics=numerics,
    )
    if latents.audio is not None and latents.audio.shape[2] != clip.audio_latents:
        raise ValueError(
            f"the input audio has {latents.audio.shape[2]} latents and a video of {clip.frames} frames at "
            f"{clip.fps:g} fps takes {clip.audio_latents}: give the fps that they were sampled with"
        )
    return clip


def _first_guidance(request: Request) -> Guidance | GuidanceSchedule:
    sampling, voice = request.sampling, request.inputs.reference_audio
    if sampling.guidance is not None:
        return sampling.guidance
    if sampling.distilled:
        guidance = Guidance()
    else:
        assert sampling.cfg is not None
        audio_cfg = sampling.cfg if sampling.audio_cfg is None else sampling.audio_cfg
        guidance = CFG(video=sampling.cfg, audio=audio_cfg)
    if voice.source is None or not voice.identity:
        return guidance
    return replace(
        guidance,
        video=replace(guidance.video, identity=voice.identity),
        audio=replace(guidance.audio, identity=voice.identity),
    )


def _second_guidance(recipe: Recipe) -> Guidance:
    blocks = recipe.stage2_stg_blocks
    return Guidance(video=StreamGuidance(stg=1.0), stg_blocks=blocks) if blocks else Guidance()


def _first_sigmas(request: Request, clip: ClipPlan, numerics: Numerics, recipe: Recipe) -> Tensor:
    sampling = request.sampling
    if sampling.sigmas is not None:
        return as_sigmas(sampling.sigmas)
    # Distilled weights were trained at these noise levels alone, so that ``steps`` has no effect.
    fixed = recipe.sigmas
    if request.staging.count == 2 and sampling.steps in (None, recipe.steps):
        fixed = recipe.first_of_two_sigmas or fixed
    if fixed is not None:
        return last_sigmas(FIXED_SIGMAS[fixed], sampling.denoise)

    # The official pipelines schedule LTX-2 for 4096 tokens, ComfyUI and diffusers for those of the clip.
    usual = "clip" if numerics.is_comfy else recipe.schedule_of
    of_clip = (sampling.schedule or usual) == "clip"

    def schedule(steps: int) -> Tensor:
        if recipe.schedule == "linear_quadratic" and not numerics.is_comfy and sampling.schedule is None:
            return linear_quadratic_sigmas(steps)
        return ltxv_sigmas(steps, clip.video_tokens) if of_clip else ltxv_sigmas(steps)

    assert sampling.steps is not None
    return partial_sigmas(schedule, sampling.steps, sampling.denoise)
