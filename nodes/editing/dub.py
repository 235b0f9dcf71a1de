"""A node that prepares a dub: new speech in the voice of a clip, and lips that follow (Dub-It)."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.editing.dub import plan_dub
from ...ltx2_core.types import Numerics
from ..clip.plan import empty_latent
from ..conditioning.iclora import downscale_of
from ..host.values import Audio, Conditioning, Vae
from ..inputs import downscale_input, iclora_parameters_input, positive_input
from ..sampling.two_stage import dubbed
from .codecs import HostCodecs, footage_of
from .inputs import CATEGORY, EditType, source_inputs


class LTX2AVDub(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDub",
            has_intermediate_output=True,
            display_name="LTX-2 Dub",
            search_aliases=[
                "dub",
                "dubbing",
                "dub-it",
                "lip dub",
                "lip sync",
                "lipsync",
                "translate speech",
                "new voice line",
                "talking head",
                "lipdub",
                "language",
                "replace voice",
            ],
            category=CATEGORY,
            description="Prepares a clip for new speech: its frames are the reference in both stages, its "
            "audio the voice in the first. It takes distilled weights with the Dub-It IC-LoRA. LTX-2 Next "
            "Stage prepares the second stage, which preserves the new audio.",
            inputs=[
                positive_input(),
                io.Conditioning.Input("negative", tooltip="From LTX-2 Prompt; it gets the same reference."),
                *source_inputs("to dub"),
                io.Vae.Input("audio_vae", tooltip="Audio VAE that encodes the voice."),
                io.Audio.Input("audio", tooltip="Audio of the clip, whose voice is imitated."),
                downscale_input(
                    "Encode the frames this many times smaller than the clip, as the LoRA requires. 0 takes "
                    "it from iclora_parameters, or 1."
                ),
                iclora_parameters_input(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the first LTX-2 Sample Stage."),
                io.Conditioning.Output(display_name="negative", tooltip="For the first LTX-2 Sample Stage."),
                io.Latent.Output(display_name="latent", tooltip="For the first LTX-2 Sample Stage."),
                EditType.Output(display_name="edit", tooltip="For LTX-2 Finish Edit."),
                io.String.Output(display_name="report", tooltip="What the reference is, and the size."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        video_vae: Vae,
        images: Tensor,
        fps: float,
        audio_vae: Vae,
        audio: Audio | None,
        downscale: int,
        iclora_parameters: Mapping[str, object] | None = None,
    ) -> io.NodeOutput:
        source, scale = footage_of(images, fps, audio), downscale or downscale_of(iclora_parameters)
        edit = plan_dub(source, scale, numerics=Numerics.COMFY)
        codecs = HostCodecs(video_vae, audio_vae)
        # The dub is planned at full size; its first stage starts at half of it.
        latent = empty_latent(edit.clip.half(), 1)
        for item in edit.conditioning(codecs):
            positive, negative, latent = dubbed(positive, negative, codecs, latent, item)
        size = f"{edit.clip.width} x {edit.clip.height} at {edit.clip.fps:g} fps"
        report = "\n".join((edit.describe(), size, *edit.clip.changes))
        return io.NodeOutput(positive, negative, latent, edit, report, ui=ui.PreviewText(report))
