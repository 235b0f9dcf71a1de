"""What a run is asked to make, and the stages that follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from os import PathLike, fspath
from typing import Any, Literal, TypeAlias

from torch import Tensor

from ..media.images import ImageSource
from ..sampling.caching import StepCache
from ..sampling.guidance import CFG, Guidance, GuidanceSchedule, Nag, Pass, StreamGuidance
from ..sampling.samplers import PAIRED, get_sampler
from ..sampling.schedules import (
    DISTILLED_SIGMAS,
    DISTILLED_STAGE2_SIGMAS,
    as_sigmas,
    last_sigmas,
    ltxv_sigmas,
    partial_sigmas,
)
from ..shapes import SPATIAL_SCALE, ClipPlan, Snap, frames_of, plan_clip
from ..transformer.tiles import Tiles
from ..types import AVLatent, Numerics

NEGATIVE_PROMPT = (
    "blurry, low quality, still frame, frames, watermark, overlay, titles, has blurbox, has subtitles"
)

AudioSource: TypeAlias = "str | PathLike[str] | tuple[Tensor, int]"
"""A sound or video file, or (waveform (C, S) in [-1, 1], sample rate in Hz)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a run can be asked for.

    Attributes:
        width, height: size of the finished clip in pixels; a multiple of 32, of 64 with two stages.
        num_frames, seconds: length of the clip, one of the two (default 121 frames); 8k + 1 frames.
        snap: what to do with a size or length off that grid.
        image: picture, or clip (N, 3, H, W) in [0, 1], that the video starts with; cut to the clip's shape.
        image_strength: 1 keeps it, 0 ignores it; two stages use 1 in the second.
        image_crf: strength of the H.264 round trip that a picture goes through, 0 is off;
            clips are left alone.
        audio: sound to make the video for; trimmed to the clip or followed by silence, otherwise kept.
        audio_noise_db: loudness (dB of full scale) of a soft noise that only the model hears under ``audio``.
        reference_audio: sound, such as a voice, that the clip's own shall be like, for LoRAs trained so; its
            first ``reference_s`` seconds. ``identity`` is how strongly, at one more evaluation a step.
        steps, cfg, audio_cfg: schedule and guidance of the first stage; ``audio_cfg`` defaults to ``cfg``.
        distilled: for distilled weights or the distilled LoRA: the fixed 8 steps and no guidance.
        sigmas: schedule of the first stage, in place of ``steps``; falls to 0.
        denoise: with ``latents``, the part of the schedule to run: 0.3 keeps most of them.
        stages: 1, or 2: half size first, then the upscaler and the 3 distilled steps at full size.
        stage2_sigmas: schedule of the second stage.
        latents: latents to go on from in place of nothing, re-noised to the first sigma.
        sampler, eta: a name of ``SAMPLERS``; the share of fresh noise of those that add some.
        stage2_sampler: that of the second stage, by default Euler with guidance and ``sampler`` without.
        guidance: all of it for the first stage, in place of ``cfg`` and ``audio_cfg``.
        nag: keeps away from the negative prompt where no pass does, at cfg 1 and in the second stage.
        cache: reuses velocities between steps, which is faster and not exact.
        tiles: shows the model a large frame in parts, at every step of every stage.
        seed, noise_device: the same seed gives the same clip; noise drawn on "cpu" is alike on every machine.
        audio_stage: which stage the sound is taken from; by default 1 with guidance and 2 without, as the
            official pipelines do, and always 2 in the comfy numerics.
        video: False makes the sound alone, in one stage.
    """

    prompt: str
    negative_prompt: str = NEGATIVE_PROMPT
    width: int = 768
    height: int = 512
    num_frames: int | None = None
    seconds: float | None = None
    fps: float = 24.0
    snap: Snap = Snap.NEAREST
    image: ImageSource | None = None
    image_strength: float = 1.0
    image_crf: int = 33
    audio: AudioSource | None = None
    audio_start_s: float = 0.0
    audio_noise_db: float | None = None
    reference_audio: AudioSource | None = None
    reference_s: float = 5.0
    identity: float = 3.0
    steps: int = 30
    cfg: float = 4.0
    audio_cfg: float | None = None
    distilled: bool = False
    sigmas: Sequence[float] | None = None
    denoise: float = 1.0
    stages: Literal[1, 2] = 1
    stage2_sigmas: Sequence[float] | None = None
    latents: AVLatent | None = None
    sampler: str = "euler"
    eta: float | None = None
    stage2_sampler: str | None = None
    guidance: Guidance | GuidanceSchedule | None = None
    nag: Nag | None = None
    cache: StepCache | None = None
    tiles: Tiles | None = None
    seed: int = 0
    noise_device: str = "cpu"
    audio_stage: Literal[1, 2] | None = None
    video: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise ValueError(
                f"prompt must be text; got {type(self.prompt).__name__}. Run several prompts one by one"
            )
        get_sampler(self.sampler, eta=self.eta)
        if self.stage2_sampler is not None:
            get_sampler(self.stage2_sampler)
        for name in ("cfg", "audio_cfg"):
            scale = getattr(self, name)
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"{name} must be a number from 0 (1 is no guidance); got {scale}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 ... 2**64 - 1; got {self.seed}")
        if not self.video and self.stages != 1:
            raise ValueError("sound alone is made in one stage: give stages=1")
        if self.latents is not None and self.stages != 1:
            raise ValueError("latents go on in one stage: give stages=1 and upscale between two calls")
        if self.denoise != 1 and self.latents is None:
            raise ValueError(
                f"denoise={self.denoise} needs latents to keep something of; give latents or denoise=1"
            )

    def settings(self) -> dict[str, Any]:
        """The request as JSON values: files by name, pictures and latents in memory by a note."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Snap):
                value = value.value
            elif isinstance(value, PathLike):
                value = fspath(value)
            elif is_dataclass(value) and not isinstance(value, AVLatent):
                value = asdict(value)  # type: ignore[arg-type]
            elif isinstance(value, Tensor | AVLatent | tuple) or hasattr(value, "__array_interface__"):
                value = f"<{type(value).__name__} in memory>"
            elif isinstance(value, Sequence) and not isinstance(value, str):
                value = [float(v) for v in value]
            plain[field.name] = value
        json.dumps(plain)
        return plain

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Request:
        """The request that :meth:`settings` describes, such as a file's tags hold.

        Raises ValueError for a picture, sound or latent that was in memory, and for unknown fields.
        """
        known = {field.name for field in fields(cls)}
        unknown = settings.keys() - known
        if unknown:
            raise ValueError(
                f"the settings have {', '.join(sorted(unknown))}, which this version does not know: use the "
                "version that wrote them"
            )
        values = dict(settings)
        for name, value in values.items():
            if isinstance(value, str) and value.startswith("<") and value.endswith(" in memory>"):
                raise ValueError(f"{name} was {value} and is not in the settings: give it again")
        readers = {
            "snap": Snap,
            "guidance": _guidance,
            "nag": _build(Nag),
            "cache": _build(StepCache),
            "tiles": _build(Tiles),
        }
        for name, read in readers.items():
            if values.get(name) is not None:
                values[name] = read(values[name])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One sampling run: where, along which sigmas, with how much guidance and image."""

    clip: ClipPlan
    sigmas: Tensor
    guidance: Guidance | GuidanceSchedule
    image_strength: float
    sampler: str = "euler"
    eta: float | None = None
    nag: Nag | None = None

    @property
    def guided(self) -> bool:
        return len(self.guidance.passes()) > 1

    @property
    def needs_negative(self) -> bool:
        """Whether the negative prompt is read."""
        return Pass.NEGATIVE in self.guidance.passes() or self.nag is not None or self.sampler in PAIRED


def plan_stages(request: Request, numerics: Numerics = Numerics.OFFICIAL) -> tuple[Stage, ...]:
    """The stages of ``request``; the last one has the size of the finished clip.

    Raises ValueError for sizes, lengths and schedules that cannot be planned.
    """
    frames = request.num_frames
    if request.latents is not None and request.latents.video is not None:
        clip = _clip_of(request, request.latents, numerics)
    else:
        clip = plan_clip(
            request.width,
            request.height,
            frames=121 if frames is None and request.seconds is None else frames,
            seconds=request.seconds,
            fps=request.fps,
            snap=request.snap,
            stages=request.stages,
            numerics=numerics,
        )
    first = clip if request.stages == 1 else clip.half()
    guidance = _first_guidance(request)
    reads_negative = Pass.NEGATIVE in guidance.passes()
    stage = Stage(
        clip=first,
        sigmas=_first_sigmas(request, first, numerics),
        guidance=guidance,
        image_strength=request.image_strength,
        sampler=request.sampler,
        eta=request.eta,
        nag=None if reads_negative else request.nag,
    )
    if request.stages == 1:
        return (stage,)
    sigmas = DISTILLED_STAGE2_SIGMAS if request.stage2_sigmas is None else as_sigmas(request.stage2_sigmas)
    sampler = request.stage2_sampler or ("euler" if stage.guided else request.sampler)
    return stage, replace(
        stage,
        clip=clip,
        sigmas=sigmas,
        guidance=Guidance(),
        image_strength=1.0,
        sampler=sampler,
        eta=request.eta if sampler == request.sampler else None,
        nag=request.nag,
    )


def _first_guidance(request: Request) -> Guidance | GuidanceSchedule:
    if request.guidance is not None:
        return request.guidance
    if request.distilled:
        guidance = Guidance()
    else:
        audio_cfg = request.cfg if request.audio_cfg is None else request.audio_cfg
        guidance = CFG(video=request.cfg, audio=audio_cfg)
    if request.reference_audio is None or not request.identity:
        return guidance
    return replace(
        guidance,
        video=replace(guidance.video, identity=request.identity),
        audio=replace(guidance.audio, identity=request.identity),
    )


def _first_sigmas(request: Request, clip: ClipPlan, numerics: Numerics) -> Tensor:
    if request.sigmas is not None:
        return as_sigmas(request.sigmas)
    if request.distilled:
        return last_sigmas(DISTILLED_SIGMAS, request.denoise)

    def schedule(steps: int) -> Tensor:
        # The official pipelines always schedule for 4096 tokens, ComfyUI for those of the clip.
        return ltxv_sigmas(steps, clip.video_tokens) if numerics is Numerics.COMFY else ltxv_sigmas(steps)

    return partial_sigmas(schedule, request.steps, request.denoise)


def _guidance(settings: Mapping[str, Any]) -> Guidance | GuidanceSchedule:
    """Guidance, plain or scheduled, from its JSON values."""
    if "entries" in settings:
        return GuidanceSchedule(
            tuple((sigma, _plain_guidance(guidance)) for sigma, guidance in settings["entries"])
        )
    return _plain_guidance(settings)


def _plain_guidance(settings: Mapping[str, Any]) -> Guidance:
    streams = {name: _build(StreamGuidance)(settings[name]) for name in ("video", "audio")}
    guidance: Guidance = _build(Guidance)(
        {**settings, **streams, "stg_blocks": tuple(settings["stg_blocks"])}
    )
    return guidance


def _build(kind: Any) -> Any:
    """A reader of one dataclass from its JSON values."""

    def read(settings: Mapping[str, Any]) -> Any:
        return kind(**settings)

    return read


def _clip_of(request: Request, latents: AVLatent, numerics: Numerics) -> ClipPlan:
    """The plan that given latents already follow."""
    assert latents.video is not None
    _, _, frames, height, width = latents.video.shape
    clip = plan_clip(
        width * SPATIAL_SCALE,
        height * SPATIAL_SCALE,
        frames=frames_of(frames),
        fps=request.fps,
        snap=Snap.ERROR,
        numerics=numerics,
    )
    if latents.audio is not None and latents.audio.shape[2] != clip.audio_latents:
        raise ValueError(
            f"the given audio has {latents.audio.shape[2]} latents and a video of {clip.frames} frames at "
            f"{clip.fps:g} fps takes {clip.audio_latents}: give the fps that they were made with"
        )
    return clip
