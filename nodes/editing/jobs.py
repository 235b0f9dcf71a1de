"""Work on a clip that exists: go on with it, make parts of it anew, give it sound."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.items import InputVideo, Overlap, PreserveOutside
from ...ltx2_core.conditioning.regions import Rounding, covered, parse_regions
from ...ltx2_core.editing.audio import CEILING_DB
from ...ltx2_core.editing.extend import FADE_FRAMES, KEEP_FRAMES, last_audio, latents_within, plan_extension
from ...ltx2_core.editing.footage import Footage
from ...ltx2_core.editing.retake import plan_retake
from ...ltx2_core.shapes import ClipPlan, frames_of, latent_frames_of
from ...ltx2_core.types import AVLatent, Numerics
from ..clip.plan import FRAMES, SECONDS, Plan, empty_latent, fps_input, whole_frames
from ..conditioning.attached import AttachedImage, AttachedSource
from ..conditioning.images import place_image
from ..convert import clip_audio, encoder_audio, frames_from_image, image_at_stage, video_of
from ..sampling.two_stage import applied, place_source
from .finish import CATEGORY, AddedSound, EditJob, Extension, Job, Retake, Sound

NO_LATENTS = torch.zeros(0, dtype=torch.bool)


class LTX2AVExtend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVExtend",
            has_intermediate_output=True,
            display_name="LTX-2 Extend",
            category=CATEGORY,
            description="Prepares a clip to go on: its last frames and the sound under them are kept, and "
            "both continue. LTX-2 Finish Edit joins the result to the clip.",
            inputs=[
                *_source_inputs("to go on with"),
                io.Combo.Input(
                    "length_unit",
                    options=[SECONDS, FRAMES],
                    tooltip="Whether length counts seconds or frames.",
                ),
                io.Float.Input(
                    "length",
                    default=3.0,
                    min=0.01,
                    max=100000.0,
                    step=0.01,
                    tooltip="How much longer the clip becomes, to the frame.",
                ),
                io.Int.Input(
                    "keep_frames",
                    default=KEEP_FRAMES,
                    min=1,
                    max=100001,
                    step=8,
                    tooltip="Last frames that the model goes on from, 8k + 1: more keep motion and voice "
                    "better and take longer.",
                ),
                io.Int.Input(
                    "fade_frames",
                    default=FADE_FRAMES,
                    min=0,
                    max=1000,
                    tooltip="Frames before the joint that go over into the new ones; 0 is a hard cut.",
                ),
                _stages_input(),
                *_audio_inputs("Its sound; without it the clip is silent up to the joint."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        video_vae: Any,
        images: Tensor,
        fps: float,
        length_unit: str,
        length: float,
        keep_frames: int,
        fade_frames: int,
        stages: str,
        audio_vae: Any = None,
        audio: Any = None,
    ) -> io.NodeOutput:
        source = _footage(images, fps, audio, audio_vae)
        new = whole_frames(length) if length_unit == FRAMES else round(length * fps)
        clip = plan_extension(source, keep_frames, new, stages=int(stages), numerics=Numerics.COMFY)
        latent = _start(clip, stages)
        kept_s = keep_frames / fps
        latents = latents_within(clip, kept_s)
        if source.sound is not None and latents:
            encoded = _encoded(audio_vae, last_audio(source, kept_s), latents)
            latent = applied(latent, Overlap(video=None, audio=encoded))
        latent = place_image(video_vae, latent, AttachedImage(images[-keep_frames:], 1.0))
        job = Extension(source=source, clip=clip, keep=keep_frames, new=new, fade=fade_frames)
        total = len(images) + new
        return _result(
            latent,
            job,
            f"{keep_frames} frames ({kept_s:.2f} s) and {latents} audio latents kept in a run of "
            f"{clip.frames} frames; the finished clip has {total} frames ({total / fps:.2f} s)",
        )


class LTX2AVRetake(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVRetake",
            has_intermediate_output=True,
            display_name="LTX-2 Retake",
            category=CATEGORY,
            description="Prepares seconds of a clip to be made anew and the rest to be kept, picture and "
            "sound apart; a region past the end makes it longer. LTX-2 Next Stage gives the second stage the "
            "clean clip at full size and the same regions.",
            inputs=[
                *_source_inputs("to work on"),
                io.String.Input(
                    "video_regions",
                    default="2-4",
                    tooltip="Seconds of the picture to make anew, such as 2-4, 5.5-6; empty keeps it all.",
                ),
                io.String.Input(
                    "audio_regions",
                    default="2-4",
                    tooltip="Seconds of the sound to make anew; empty keeps all of it.",
                ),
                io.Combo.Input(
                    "rounding",
                    options=[r.value for r in (Rounding.COVER, Rounding.INSIDE, Rounding.TOUCH)],
                    tooltip="cover takes every latent frame that a region overlaps, inside only those that "
                    "lie in it, touch also those that it only touches.",
                ),
                io.Boolean.Input(
                    "paste",
                    default=True,
                    tooltip="LTX-2 Finish Edit takes the kept frames from the clip itself; off, they are the "
                    "decoded ones.",
                ),
                _stages_input(),
                *_audio_inputs("Its sound; without it all of the sound is made."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        video_vae: Any,
        images: Tensor,
        fps: float,
        video_regions: str,
        audio_regions: str,
        rounding: str,
        paste: bool,
        stages: str,
        audio_vae: Any = None,
        audio: Any = None,
    ) -> io.NodeOutput:
        source = _footage(images, fps, audio, audio_vae)
        regions = parse_regions(video_regions), parse_regions(audio_regions)
        plan = plan_retake(source, *regions, Rounding(rounding), stages=int(stages), numerics=Numerics.COMFY)
        latent = _start(plan.clip, stages)
        if source.sound is not None:
            encoded = _encoded(audio_vae, source.sound, plan.clip.audio_latents)
            kept = PreserveOutside(latent=AVLatent(None, encoded), video=NO_LATENTS, audio=plan.audio)
            latent = applied(latent, kept)
        latent = place_source(video_vae, latent, AttachedSource(images[: plan.usable], plan.video))
        opened = AVLatent(plan.video.float().view(1, 1, -1, 1, 1), plan.audio.float().view(1, 1, -1, 1))
        job = Retake(source=source, clip=plan.clip, plan=plan, paste=paste)
        return _result(latent, job, "\n".join(str(one) for one in covered(opened, fps)))


class LTX2AVSound(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSound",
            has_intermediate_output=True,
            display_name="LTX-2 Video To Audio",
            category=CATEGORY,
            description="Prepares a clip to be given a sound: its pictures stay as they are and need not be "
            "decoded. LTX-2 Finish Edit gives them back with the sound.",
            inputs=[
                *_source_inputs("to make sound for"),
                io.Float.Input(
                    "ceiling",
                    default=CEILING_DB,
                    min=-60.0,
                    max=0.0,
                    step=0.1,
                    tooltip="Loudest sample in dB of full scale: a louder sound is made quieter as a whole.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, video_vae: Any, images: Tensor, fps: float, ceiling: float) -> io.NodeOutput:
        source = _footage(images, fps, None, None)
        usable = frames_of(latent_frames_of(len(images)))
        clip = source.plan(usable, numerics=Numerics.COMFY)
        latent = _start(clip, "1")
        encoded = video_vae.encode(image_at_stage(images[:usable], video_of(latent), 0))
        latent = applied(latent, InputVideo(latent=encoded))
        job = AddedSound(source=source, clip=clip, ceiling_db=ceiling)
        return _result(
            latent, job, f"sound for {source.seconds:.2f} s; the model sees {usable} of {len(images)} frames"
        )


def _footage(images: Tensor, fps: float, audio: Any, audio_vae: Any) -> Footage:
    sound = None
    if audio is not None:
        if audio_vae is None:
            raise ValueError(
                "a sound is connected and audio_vae is not: connect the audio VAE that encodes it"
            )
        sound = audio["waveform"][0].float().cpu(), int(audio["sample_rate"])
    return Footage(frames=frames_from_image(images).float().cpu(), fps=fps, sound=sound)


def _start(clip: ClipPlan, stages: str) -> dict[str, Any]:
    """The empty LATENT of the first stage."""
    return empty_latent(clip.half() if stages == "2" else clip, 1)


def _encoded(audio_vae: Any, sound: Sound, latents: int) -> Tensor:
    """A sound ((C, S), Hz) as ``latents`` audio latents: cut, or followed by silence."""
    waveform, rate, _ = clip_audio({"waveform": sound[0][None], "sample_rate": sound[1]}, 0.0, latents)
    return audio_vae.encode(encoder_audio(waveform, rate, audio_vae.audio_sample_rate, latents))


def _result(latent: dict[str, Any], job: Job, report: str) -> io.NodeOutput:
    lines = "\n".join((report, *job.clip.changes))
    return io.NodeOutput(latent, job.clip, job, lines, ui=ui.PreviewText(lines))


def _source_inputs(what: str) -> tuple[io.Input, ...]:
    return (
        io.Vae.Input("video_vae", tooltip="Video VAE that encodes the clip."),
        io.Image.Input("images", tooltip=f"Frames of the clip {what}, cut around the centre to the grid."),
        fps_input("Frames per second of the clip."),
    )


def _audio_inputs(tooltip: str) -> tuple[io.Input, ...]:
    return (
        io.Vae.Input(
            "audio_vae", optional=True, tooltip="Audio VAE that encodes the sound, where there is one."
        ),
        io.Audio.Input("audio", optional=True, tooltip=tooltip),
    )


def _stages_input() -> io.Input:
    return io.Combo.Input(
        "stages",
        options=["1", "2"],
        tooltip="2: the first stage has half the width and height, and LTX-2 Next Stage doubles them. 1: "
        "sample at full size.",
    )


def _outputs() -> list[io.Output]:
    return [
        io.Latent.Output(display_name="latent", tooltip="For the first LTX-2 Sample Stage."),
        Plan.Output(display_name="plan", tooltip="Frame rate and length of the run, for LTX-2 Prompt."),
        EditJob.Output(display_name="edit", tooltip="For LTX-2 Finish Edit."),
        io.String.Output(display_name="report", tooltip="What is kept and what is made."),
    ]
