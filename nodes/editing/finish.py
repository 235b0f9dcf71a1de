"""The end of an edit: what was made is joined to the clip that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ...ltx2_core.editing.audio import fitted_audio
from ...ltx2_core.editing.extend import joined_audio, joined_frames
from ...ltx2_core.editing.footage import Footage
from ...ltx2_core.editing.retake import RetakePlan, retaken_audio, retaken_frames
from ...ltx2_core.media import fit_image, to_signed
from ...ltx2_core.shapes import ClipPlan
from ..clip.decode import decoded_audio, decoded_images
from ..conditioning.attached import refuse_guides
from ..convert import frames_from_image, image_from_frames
from ..host.latents import Latent

CATEGORY = "LTX-2/editing"
EditJob = io.Custom("LTX2AV_EDIT")
Sound = tuple[Tensor, int]


class Job(Protocol):
    """What LTX-2 Finish Edit still has to do with the decoded clip."""

    source: Footage
    clip: ClipPlan
    draws: bool
    """Whether pictures were made."""

    def pictures(self, made: Tensor | None) -> Tensor:
        """IMAGE of the whole result, of the decoded one."""
        ...

    def sound(self, made: Sound) -> Sound: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Extension:
    """The source, then ``new`` pictures after the ``keep`` that the run began with."""

    source: Footage
    clip: ClipPlan
    keep: int
    new: int
    fade: int
    draws = True

    def pictures(self, made: Tensor | None) -> Tensor:
        chunks = _chunks(made, self.clip)
        return _image(joined_frames(_fitted(self.source, self.clip), chunks, self.keep, self.new, self.fade))

    def sound(self, made: Sound) -> Sound:
        fps = self.source.fps
        return joined_audio(self.source, made, self.keep / fps, (len(self.source.frames) + self.new) / fps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Retake:
    """The source with parts made anew; ``paste`` takes the pictures outside from it."""

    source: Footage
    clip: ClipPlan
    plan: RetakePlan
    paste: bool
    draws = True

    def pictures(self, made: Tensor | None) -> Tensor:
        chunks, source = _chunks(made, self.clip), _fitted(self.source, self.clip)
        return _image(retaken_frames(source, chunks, self.plan.video, self.plan.frames, self.paste))

    def sound(self, made: Sound) -> Sound:
        return retaken_audio(self.source, made, self.plan.audio, self.plan.frames / self.source.fps)


@dataclass(frozen=True, kw_only=True, eq=False)
class AddedSound:
    """The source's pictures as they are, with a new sound."""

    source: Footage
    clip: ClipPlan
    ceiling_db: float
    draws = False

    def pictures(self, made: Tensor | None) -> Tensor:
        return image_from_frames(self.source.frames)

    def sound(self, made: Sound) -> Sound:
        return fitted_audio(made, self.source.seconds, self.ceiling_db)


class LTX2AVFinishEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVFinishEdit",
            display_name="LTX-2 Finish Edit",
            category=CATEGORY,
            description="Decodes what was made and joins it to the clip that it was made from: kept pictures "
            "and sound are the clip's own, the joints fade, the length is exact.",
            inputs=[
                EditJob.Input("edit", tooltip="From LTX-2 Extend, LTX-2 Retake or LTX-2 Video To Audio."),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Decoded sound to use in place of the latent's."
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Decoded pictures to use in place of the latent's."
                ),
                io.Latent.Input("latent", optional=True, tooltip="The sampled latent of the last stage."),
                io.Vae.Input("video_vae", optional=True, tooltip="Decodes the pictures of the latent."),
                io.Vae.Input("audio_vae", optional=True, tooltip="Decodes the sound of the latent."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The whole clip."),
                io.Audio.Output(display_name="audio", tooltip="Its sound, exactly as long."),
                io.Float.Output(display_name="fps", tooltip="Frames per second."),
                io.Video.Output(display_name="video", tooltip="All of it, for Save Video."),
            ],
        )

    @classmethod
    def execute(
        cls,
        edit: Job,
        audio: dict[str, Any] | None = None,
        images: Tensor | None = None,
        latent: Latent | None = None,
        video_vae: Any = None,
        audio_vae: Any = None,
    ) -> io.NodeOutput:
        if audio is None:
            audio = decoded_audio(audio_vae, _given(latent, audio_vae, "audio"))
        if images is None and edit.draws:
            images = decoded_images(video_vae, _given(latent, video_vae, "images"))
        waveform, rate = edit.sound((audio["waveform"][0].float().cpu(), int(audio["sample_rate"])))
        sound = {"waveform": waveform[None], "sample_rate": rate}
        pictures, fps = edit.pictures(images), edit.source.fps
        clip = Types.VideoComponents(images=pictures, audio=sound, frame_rate=Fraction(fps))
        return io.NodeOutput(pictures, sound, fps, InputImpl.VideoFromComponents(clip))


def _given(latent: Latent | None, vae: Any, decoded: str) -> Latent:
    """The latent that is to be decoded. Raises ValueError where it or its VAE is missing."""
    if latent is None or vae is None:
        raise ValueError(
            f"{decoded} is missing: connect the latent of the last stage and the VAEs, or what LTX-2 Decode "
            "made of them"
        )
    refuse_guides(latent, "LTX-2 Finish Edit")
    return latent


def _fitted(source: Footage, clip: ClipPlan) -> Footage:
    """Cut to a plan as the nodes cut what they encode."""
    return replace(source, frames=fit_image(source.frames, clip.width, clip.height, mode="comfy"))


def _chunks(made: Tensor | None, clip: ClipPlan) -> Iterator[Tensor]:
    """A decoded IMAGE as (N, 3, H, W) in [-1, 1]. Raises ValueError if it is not the clip of the plan."""
    assert made is not None
    if tuple(made.shape[:3]) != (clip.frames, clip.height, clip.width):
        raise ValueError(
            f"{len(made)} pictures of {made.shape[2]} x {made.shape[1]} are given and the edit makes "
            f"{clip.frames} of {clip.width} x {clip.height}: connect the latent of the last stage, "
            "and set stages of the preparing node to how many there are"
        )
    return iter(to_signed(part) for part in frames_from_image(made).float().cpu().split(32))


def _image(chunks: Iterator[Tensor]) -> Tensor:
    """(N, 3, H, W) in [-1, 1] in chunks -> IMAGE."""
    return torch.cat([image_from_frames((chunk + 1) / 2) for chunk in chunks]).clamp_(0, 1)
