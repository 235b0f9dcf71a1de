"""A node between two sampling stages: it removes guides, upscales, and adds all conditioning again."""

from __future__ import annotations

import node_helpers
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.items import Conditioning as ConditioningItem
from ...ltx2_core.conditioning.masks import expand_mask, mask_like
from ...ltx2_core.conditioning.patchify import patchify_audio
from ...ltx2_core.editing.conditioning import FirstFrames, ReferenceFrames, SourceFrames
from ...ltx2_core.editing.dub import DubbedAudio
from ...ltx2_core.editing.protocols import StageInput
from ...ltx2_core.shapes import SPATIAL_SCALE, ClipPlan, frames_of
from ...ltx2_core.types import AVLatent, LatentState
from ..clip.latents import enlarged
from ..clip.plan import CATEGORY
from ..conditioning.attached import (
    Attached,
    AttachedGuide,
    AttachedImage,
    attached_to,
    guides_marked,
    remember,
    without_attached,
)
from ..conditioning.guide_latents import add_guide, attach_guide, crop_guides
from ..conditioning.images import place_image
from ..convert import Streams, split, video_of
from ..editing.codecs import HostCodecs
from ..host.guides import guide_frames_of
from ..host.latents import Latent
from ..host.masks import frame_mask
from ..host.values import Conditioning, ReferenceAudio, UpscaleModel, Vae
from ..inputs import conditioning_outputs


class LTX2AVNextStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVNextStage",
            has_intermediate_output=True,
            display_name="LTX-2 Next Stage",
            search_aliases=[
                "second stage",
                "hires",
                "upscale",
                "two stages",
                "2 stage",
                "multi-stage",
                "refine",
            ],
            category=CATEGORY,
            description="Everything between two stages: removes guide frames, upscales the video, and adds "
            "images, guides and a preserved source again at the larger size. The audio stays as it is, with "
            "its mask.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The positive input of the previous stage."),
                io.Conditioning.Input("negative", tooltip="The negative input of the previous stage."),
                io.Latent.Input("latent", tooltip="Result of the previous stage, with its guide frames."),
                io.LatentUpscaleModel.Input("upscale_model", tooltip="Latent upscaler, such as spatial x2."),
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes images, guides and source."),
            ],
            outputs=[
                *conditioning_outputs(*["For the next stage."] * 2),
                io.Latent.Output(display_name="latent", tooltip="For the next LTX-2 Sample Stage."),
                io.String.Output(display_name="report", tooltip="The changes to the latent, in order."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        upscale_model: UpscaleModel,
        video_vae: Vae,
    ) -> io.NodeOutput:
        attached, guides = attached_to(latent), guide_frames_of(positive, video_of(latent)["samples"])
        if guides_marked(latent) not in (None, guides):
            raise ValueError(
                f"this latent holds {guides_marked(latent)} guide frames and the conditioning describes "
                f"{guides}: connect positive and negative of the last LTX-2 Add Guide to LTX-2 Next Stage"
            )
        # Guides are removed before the upscaler, which would blend them with the last frames of the clip in
        # time.
        positive, negative, latent = crop_guides(positive, negative, without_attached(latent))
        latent = enlarged(latent, upscale_model, video_vae)
        rows, columns = (SPATIAL_SCALE * size for size in video_of(latent)["samples"].shape[3:])
        lines = [f"{guides} guide frames removed"] * bool(guides) + [f"enlarged to {columns} x {rows}"]
        # Conditioning is encoded again at the new size, because an upscaled latent of it would be less exact.
        for item in attached:
            positive, negative, latent, line = put_back(positive, negative, latent, video_vae, item)
            lines.append(f"added again: {line}")
        report = "\n".join(lines)
        return io.NodeOutput(positive, negative, latent, report, ui=ui.PreviewText(report))


def put_back(
    positive: Conditioning, negative: Conditioning, latent: Latent, video_vae: Vae, item: Attached
) -> tuple[Conditioning, Conditioning, Latent, str]:
    """Add the image, clip or guide ``item`` of the previous sampling run again, at the size of ``latent``.

    Returns positive and negative CONDITIONING, the LATENT, and a line for the report.
    """
    if isinstance(item, AttachedGuide):
        return add_guide(positive, negative, video_vae, latent, item)
    if isinstance(item, AttachedImage):
        again = item.in_next_stage
        line = f"{len(item.image)} images in place of the first frames, strength {again.strength:g}"
        return positive, negative, place_image(video_vae, latent, again), line
    codecs = HostCodecs(video_vae)
    if isinstance(item, ReferenceFrames | DubbedAudio):
        return *dubbed(positive, negative, codecs, latent, item), item.describe()
    return positive, negative, placed(codecs, latent, item), item.describe()


def dubbed(
    positive: Conditioning,
    negative: Conditioning,
    codecs: HostCodecs,
    latent: Latent,
    item: ReferenceFrames | DubbedAudio,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Condition a sampling run on ``item``, the frames or the audio of a dub, which ``codecs`` encode.

    Frames become a guide, and audio a reference; returned are both CONDITIONINGs and the LATENT with them.
    The item is recorded in the LATENT, so that the next sampling run can encode it for its own size.
    """
    encoded = item.at(codecs, _clip_of(latent))
    if isinstance(encoded, GuideFrames):
        positive, negative, latent = attach_guide(positive, negative, latent, encoded)
    else:
        streams = split(latent)
        state = encoded.apply(_state_of(streams))
        assert state.reference_audio is not None
        reference = ReferenceAudio(
            tokens=patchify_audio(state.reference_audio), follows=state.reference_follows
        )
        positive, negative = (
            node_helpers.conditioning_set_values(prompt, {"ref_audio": reference})
            for prompt in (positive, negative)
        )
        latent = _latent_of(streams, state)
    return positive, negative, remember(latent, item)


def placed(codecs: HostCodecs, latent: Latent, item: StageInput) -> Latent:
    """Condition ``latent`` on ``item``, frames or audio of an edit, which ``codecs`` encode at its size.

    If ``item`` has frames, it is also recorded in the LATENT, so that the next sampling run, at a larger
    size, can encode the frames again.
    """
    conditioned = applied(latent, item.at(codecs, _clip_of(latent)))
    # Audio is the same in every stage, so only frames have to be encoded again for the next one.
    return remember(conditioned, item) if isinstance(item, FirstFrames | SourceFrames) else conditioned


def applied(latent: Latent, item: ConditioningItem) -> Latent:
    """Apply ``item``, such as encoded first frames or input audio, to samples and noise mask of a LATENT.

    Returns a LATENT that has a noise mask.
    """
    streams = split(latent)
    return _latent_of(streams, item.apply(_state_of(streams)))


def _clip_of(latent: Latent) -> ClipPlan:
    """Size and length in pixels of the video in a LATENT; the frame rate, which it does not state, is 1."""
    frames, rows, columns = video_of(latent)["samples"].shape[2:]
    size = {"width": columns * SPATIAL_SCALE, "height": rows * SPATIAL_SCALE}
    # No item of an edit depends on the frame rate.
    return ClipPlan(**size, frames=frames_of(frames), fps=1.0)


def _state_of(streams: Streams) -> LatentState:
    """The library's LatentState with the samples and the noise masks of the video and audio in a LATENT."""
    samples = AVLatent(*(None if one is None else one["samples"] for one in streams))
    # The library expects a mask for every stream; a LATENT may have one for some.
    mask = mask_like(samples)
    if streams.video is not None:
        mask = expand_mask(AVLatent(frame_mask(streams.video)[:, :1], mask.audio), samples)
    if streams.audio is not None and "noise_mask" in streams.audio:
        mask = AVLatent(mask.video, streams.audio["noise_mask"][:, :1, :, :1].expand_as(mask.audio))
    return LatentState(latent=samples, mask=mask, fps=1.0)


def _latent_of(streams: Streams, state: LatentState) -> Latent:
    """Join ``streams`` to a LATENT, with samples and noise masks of ``state`` in place of their own."""
    return Streams(
        _with_samples(streams.video, state.latent.video, state.mask.video),
        _with_samples(streams.audio, state.latent.audio, state.mask.audio),
    ).joined()


def _with_samples(stream: Latent | None, samples: Tensor | None, mask: Tensor | None) -> Latent | None:
    """A copy of the LATENT ``stream`` with copies of ``samples`` and ``mask``; None if one of them is."""
    if stream is None or samples is None or mask is None:
        return None
    # Expanded masks share memory along axes, which a later write in place would corrupt.
    return {**stream, "samples": samples.clone(), "noise_mask": mask.to(torch.float32).clone()}
