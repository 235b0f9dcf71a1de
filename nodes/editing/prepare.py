"""Nodes that prepare an edit for sampling: extend a clip, regenerate parts of it, generate audio for it."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.regions import Rounding, parse_regions
from ...ltx2_core.editing.audio import CEILING_DB, plan_audio
from ...ltx2_core.editing.conditioning import check_audio
from ...ltx2_core.editing.edit import EditPlan
from ...ltx2_core.editing.extend import FADE_FRAMES, KEEP_FRAMES, frames_of_seconds, plan_extension
from ...ltx2_core.editing.retake import plan_retake
from ...ltx2_core.types import Numerics
from ..clip.plan import FRAMES, empty_latent, whole_frames
from ..host.values import Audio, Vae
from ..inputs import (
    audio_regions_input,
    ceiling_input,
    length_input,
    length_unit_input,
    rounding_input,
    video_regions_input,
)
from ..quantity import quantity
from ..sampling.two_stage import placed
from .codecs import HostCodecs, footage_of
from .inputs import prepared_schema, source_inputs, staged_inputs


class LTX2AVExtend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return prepared_schema(
            node_id="LTX2AVExtend",
            display_name="LTX-2 Extend",
            search_aliases=[
                "continue",
                "extend",
                "longer",
                "video extension",
                "add seconds",
                "extend video",
                "prepend",
            ],
            description="Prepares a clip to be extended: its last frames and the audio under them are "
            "preserved, and both continue. LTX-2 Finish Edit joins the result to the clip.",
            inputs=[
                *source_inputs("to extend"),
                length_unit_input(),
                length_input(3.0, "How much longer the clip becomes, to the frame."),
                quantity(
                    "keep_frames",
                    KEEP_FRAMES,
                    high=100001,
                    step=8,
                    more="More preserve motion and voice better.",
                ),
                io.Int.Input(
                    "fade_frames",
                    default=FADE_FRAMES,
                    min=0,
                    max=1000,
                    tooltip="Frames before the joint that fade into the new ones; 0 is a hard cut.",
                ),
                *staged_inputs("Audio of the clip; without it the clip is silent up to the joint."),
            ],
        )

    @classmethod
    def execute(
        cls,
        video_vae: Vae,
        images: Tensor,
        fps: float,
        length_unit: str,
        length: float,
        keep_frames: int,
        fade_frames: int,
        stages: str,
        audio_vae: Vae | None = None,
        audio: Audio | None = None,
    ) -> io.NodeOutput:
        edit = plan_extension(
            footage_of(images, fps, audio),
            keep_frames,
            whole_frames(length) if length_unit == FRAMES else frames_of_seconds(length, fps),
            fade_frames,
            stages=int(stages),
            numerics=Numerics.COMFY,
        )
        codecs = HostCodecs(video_vae, audio_vae)
        return _prepared(edit, codecs, stages, edit.describe(with_audio=codecs.has_audio))


class LTX2AVRetake(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return prepared_schema(
            node_id="LTX2AVRetake",
            display_name="LTX-2 Retake",
            search_aliases=[
                "inpaint",
                "redo",
                "replace part",
                "edit video",
                "temporal inpainting",
                "change seconds",
                "regenerate",
            ],
            description="Prepares seconds of a clip to be regenerated, of video and audio independently; the "
            "rest is preserved. A region past the end makes the clip longer. LTX-2 Next Stage conditions the "
            "second stage on the clean clip at full size, with the same regions.",
            inputs=[
                *source_inputs("to edit"),
                video_regions_input(),
                audio_regions_input(),
                rounding_input(),
                io.Boolean.Input(
                    "paste",
                    default=True,
                    tooltip="LTX-2 Finish Edit takes the preserved frames from the images, cut to the grid. "
                    "Off: they have been encoded and decoded by the VAE.",
                ),
                *staged_inputs("Audio of the clip; without it all of the audio is generated."),
            ],
        )

    @classmethod
    def execute(
        cls,
        video_vae: Vae,
        images: Tensor,
        fps: float,
        video_regions: str,
        audio_regions: str,
        rounding: str,
        paste: bool,
        stages: str,
        audio_vae: Vae | None = None,
        audio: Audio | None = None,
    ) -> io.NodeOutput:
        edit = plan_retake(
            footage_of(images, fps, audio),
            parse_regions(video_regions),
            parse_regions(audio_regions),
            Rounding(rounding),
            paste=paste,
            allow_past_end=True,
            stages=int(stages),
            numerics=Numerics.COMFY,
        )
        codecs = HostCodecs(video_vae, audio_vae)
        return _prepared(edit, codecs, stages, edit.describe(with_audio=codecs.has_audio))


class LTX2AVSound(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return prepared_schema(
            node_id="LTX2AVSound",
            display_name="LTX-2 Video To Audio",
            search_aliases=[
                "foley",
                "sound effects",
                "video to audio",
                "v2a",
                "soundtrack",
                "add sound",
                "silent video",
                "music",
                "sfx",
                "mmaudio",
            ],
            description="Prepares a clip for generated audio: the model is conditioned on its frames and "
            "does not change them. LTX-2 Finish Edit returns the images themselves with the audio.",
            inputs=[*source_inputs("to generate audio for"), ceiling_input(CEILING_DB)],
        )

    @classmethod
    def execute(cls, video_vae: Vae, images: Tensor, fps: float, ceiling: float) -> io.NodeOutput:
        codecs = HostCodecs(video_vae)
        check_audio(codecs, "audio is to be generated")
        edit = plan_audio(footage_of(images, fps), ceiling, numerics=Numerics.COMFY)
        # One stage: the frames are preserved, and the audio latent has the same size in every stage.
        return _prepared(edit, codecs, "1", edit.describe())


def _prepared(edit: EditPlan, codecs: HostCodecs, stages: str, description: str) -> io.NodeOutput:
    """Make the outputs of a node that prepares an edit: LATENT of the first stage, plan, edit and report.

    The LATENT is conditioned on what the edit preserves, which ``codecs`` encode; it is of the video alone if
    the model has no audio. ``stages``, "1" or "2", is the number of sampling runs for the clip; the first of
    two samples at half the width and height. ``description`` is that of the edit, for the report.
    """
    # The edit is planned at full size; its first stage starts at half of it.
    first = edit.clip.half() if stages == "2" else edit.clip
    latent = empty_latent(first, 1, with_audio=codecs.has_audio)
    for item in edit.conditioning(codecs):
        latent = placed(codecs, latent, item)
    report = "\n".join((description, *edit.clip.changes))
    return io.NodeOutput(latent, edit.clip, edit, report, ui=ui.PreviewText(report))
