"""A node that finishes an edit: it decodes the sampled clip and joins it to its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ...ltx2_core.editing.edit import EditPlan
from ...ltx2_core.editing.protocols import Waveform
from ...ltx2_core.editing.result import Edit
from ...ltx2_core.media import to_signed
from ...ltx2_core.run.generation import silence
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.storage.files import JsonObject
from ..clip.audio_levels import shown_levels
from ..clip.decode import decoded_audio, decoded_images
from ..conditioning.attached import refuse_guides
from ..convert import frames_from_image, image_from_frames
from ..host.latents import Latent
from ..host.ltx_video import is_ltx_video_vae
from ..host.values import Audio, Vae
from .codecs import waveform_of
from .inputs import CATEGORY, EditType


class LTX2AVFinishEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVFinishEdit",
            has_intermediate_output=True,
            display_name="LTX-2 Finish Edit",
            search_aliases=["join clip", "paste back", "save edit"],
            category=CATEGORY,
            description="Decodes the sampled latent and joins it to the source clip: preserved frames and "
            "audio are taken from the source, its frames cut to the grid, and joints are faded.",
            inputs=[
                EditType.Input("edit", tooltip="From the node that prepared the edit, such as LTX-2 Retake."),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Decoded audio to use in place of the latent's."
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Decoded frames to use in place of the latent's."
                ),
                io.Latent.Input("latent", optional=True, tooltip="The sampled latent of the last stage."),
                io.Vae.Input("video_vae", optional=True, tooltip="Decodes the frames of the latent."),
                io.Vae.Input("audio_vae", optional=True, tooltip="Decodes the audio of the latent."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="All frames of the clip."),
                io.Audio.Output(display_name="audio", tooltip="Its audio, of the same length."),
                io.Float.Output(display_name="fps", tooltip="Frames per second."),
                io.Video.Output(display_name="video", tooltip="Frames and audio, for Save Video."),
            ],
        )

    @classmethod
    def execute(
        cls,
        edit: EditPlan | None,
        audio: Audio | None = None,
        images: Tensor | None = None,
        latent: Latent | None = None,
        video_vae: Vae | None = None,
        audio_vae: Vae | None = None,
    ) -> io.NodeOutput:
        if edit is None:
            raise ValueError(
                "the shot list names no source to put regions into: name one, or use LTX-2 Decode To Video"
            )
        # LTX-Video has no audio: the source keeps its own, and without any the clip is silent.
        if audio is None and not is_ltx_video_vae(video_vae):
            audio = decoded_audio(audio_vae, _to_decode(latent, audio_vae, "audio"))
        # Decoding takes minutes, and without regenerated frames its result would not be used.
        if images is None and edit.regenerates_video:
            images = decoded_images(video_vae, _to_decode(latent, video_vae, "images"))
        done = edit.finish(DecodedClip(edit.clip, images, audio))
        if audio is None and edit.source.audio is None:
            done = done.silent()
        # The way to [-1, 1] and back rounds, and these frames need neither it nor the cut to the grid.
        frames = (
            _image(done.frame_chunks())
            if edit.regenerates_video
            else image_from_frames(edit.source.frames[:])
        )
        track = _track(done)
        video = Types.VideoComponents(images=frames, audio=track, frame_rate=Fraction(done.fps))
        shown = shown_levels(None if track is None else (track["waveform"][0], track["sample_rate"]))
        return io.NodeOutput(frames, track, done.fps, InputImpl.VideoFromComponents(video), ui=shown)


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """The clip that an edit has sampled, as the IMAGE and AUDIO to which it was decoded.

    ``EditPlan.finish`` takes such a value. ``clip`` is the size and length that the edit has planned;
    ``images`` is None if the edit does not regenerate frames, ``decoded_audio`` if the model has no audio.
    """

    clip: ClipPlan
    images: Tensor | None
    decoded_audio: Audio | None

    def frames(self) -> Iterator[Tensor]:
        """Yield the frames in chunks (frames, 3, height, width) in [-1, 1].

        Raises ValueError if number or size of the frames differs from what the edit has planned.
        """
        assert self.images is not None
        count, rows, columns = self.images.shape[:3]
        if (count, rows, columns) != (self.clip.frames, self.clip.height, self.clip.width):
            raise ValueError(
                f"there are {count} frames of {columns} x {rows} and the edit generates {self.clip.frames} "
                f"of {self.clip.width} x {self.clip.height}: connect the latent of the last stage, and set "
                "stages of the preparing node to the number of stages"
            )
        # Converted 32 frames at a time, so that a second copy of a long clip is never whole in memory.
        return iter(to_signed(part) for part in frames_from_image(self.images).float().cpu().split(32))

    def audio(self) -> Waveform:
        return silence(self.clip.seconds) if self.decoded_audio is None else waveform_of(self.decoded_audio)

    def settings(self) -> JsonObject:
        # The host writes the graph into the file itself.
        return {}


def _to_decode(latent: Latent | None, vae: Vae | None, output: str) -> Latent:
    """Return ``latent`` if it can be decoded by ``vae``.

    Raises ValueError if one of them is not connected (None), or if the latent still has guide frames.
    ``output``, "images" or "audio", says in the message what would be decoded.
    """
    if latent is None or vae is None:
        raise ValueError(
            f"{output} is missing: connect the latent of the last stage and the VAEs, or the outputs of "
            "LTX-2 Decode"
        )
    # Guide frames would lengthen the clip beyond what the edit has planned.
    refuse_guides(latent, "LTX-2 Finish Edit")
    return latent


def _track(done: Edit) -> Audio | None:
    """The audio of a finished clip as AUDIO; None for a silent clip, as ComfyUI has it."""
    if not done.rate:
        return None
    waveform, rate = done.audio()
    return {"waveform": waveform[None], "sample_rate": rate}


def _image(chunks: Iterator[Tensor]) -> Tensor:
    """Join chunks of frames (frames, 3, height, width) in [-1, 1] to one IMAGE in [0, 1]."""
    # An IMAGE is in [0, 1], and decoders overshoot a little.
    return torch.cat([image_from_frames((chunk + 1) / 2) for chunk in chunks]).clamp_(0, 1)
