"""A node that samples a clip by the DFR pipeline of LTX-2.5, from the prompt to the last temporal round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.inputs import check_strength
from ...ltx2_core.conditioning.items import Conditioning as ConditioningItem
from ...ltx2_core.conditioning.items import ImageInPlace
from ...ltx2_core.loading.lora import REFERENCE_KEYS
from ...ltx2_core.run.dfr import DfrRun
from ...ltx2_core.run.dfr_plan import DETAIL_SCALE, describe_dfr, plan_dfr
from ...ltx2_core.run.request import Request
from ...ltx2_core.run.stages import Stage
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.types import Numerics
from ..clip.plan import empty_latent
from ..conditioning.attached import AttachedImage, marked_guides, remember
from ..conditioning.iclora import downscale_of
from ..conditioning.images import chosen_crf
from ..conditioning.keyframe_latents import parse_frames
from ..convert import image_at_stage, video_of
from ..host.distilled import check_distilled_model
from ..host.latents import from_av
from ..host.lora import ATTACHMENT
from ..host.prompt_parts import has_parts
from ..host.recipe import recipe_of_model
from ..host.upscaling import check_temporal
from ..host.values import Conditioning, Model, UpscaleModel, Vae
from ..host.video_vae import checked_video_vae
from ..inputs import BY_MODEL, Plan, model_input, positive_input
from ..quantity import quantity
from .dfr_stages import HostDfr
from .stage import CATEGORY


class LTX2AVSampleDFR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSampleDFR",
            has_intermediate_output=True,
            display_name="LTX-2 Sample DFR",
            search_aliases=[
                "dfr",
                "fidelity",
                "high frame rate",
                "48 fps",
                "60 fps",
                "temporal upscale",
                "interpolate",
                "temporal upscaler",
            ],
            category=CATEGORY,
            description="The DFR pipeline of LTX-2.5 in one node: two stages with generated keyframes, then "
            "rounds that each double the frame rate. For distilled weights or a distilled LoRA.",
            inputs=[
                model_input(),
                positive_input(),
                Plan.Input("plan", tooltip="From LTX-2 Clip Plan with stages 2: size, length and fps."),
                io.Vae.Input("video_vae", tooltip="Video VAE of the checkpoint."),
                io.LatentUpscaleModel.Input("upscale_model", tooltip="Latent upscaler, such as spatial x2."),
                quantity("seed", 0, low=0, control_after_generate=True),
                quantity(
                    "temporal_rounds",
                    0,
                    text="How many times the frame rate is doubled: 1 makes 48 frames a second of 24",
                    more="Needs temporal_upscale_model.",
                ),
                io.LatentUpscaleModel.Input(
                    "temporal_upscale_model",
                    optional=True,
                    tooltip="Latent upscaler that doubles the frames, temporal x2.",
                ),
                io.Model.Input(
                    "detail_model",
                    optional=True,
                    tooltip="The model with an IC-LoRA for spatial detail, for the second stage.",
                ),
                io.Image.Input("image", optional=True, tooltip="Image that becomes the first frame."),
                quantity(
                    "image_strength",
                    1.0,
                    step=0.01,
                    optional=True,
                    text="How much of the first image stage 1 preserves: 1 all of it, 0 nothing",
                    more="Stage 2 preserves all of it.",
                ),
                io.Image.Input(
                    "guide_images",
                    optional=True,
                    tooltip="Images that guide the clip at guide_frames, one for each of these frames.",
                ),
                io.String.Input(
                    "guide_frames",
                    default="",
                    optional=True,
                    tooltip="Frames of guide_images, such as 48, -1, counted before the frame rate is "
                    "doubled; -1 is the last.",
                ),
                io.String.Input(
                    "guide_strengths",
                    default="",
                    optional=True,
                    tooltip="How much of guide_images is preserved: one number for all, or one for each; "
                    "empty is 1.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The sampled clip, for decoding."),
                Plan.Output(display_name="plan", tooltip="Size, length and fps of the finished clip."),
                io.Float.Output(display_name="fps", tooltip="Its frame rate, for the file."),
                io.String.Output(display_name="report", tooltip="Stages, tiles and keyframes of the run."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        plan: ClipPlan,
        video_vae: Vae,
        upscale_model: UpscaleModel,
        seed: int,
        temporal_rounds: int,
        temporal_upscale_model: UpscaleModel | None = None,
        detail_model: Model | None = None,
        image: Tensor | None = None,
        image_strength: float = 1.0,
        guide_images: Tensor | None = None,
        guide_frames: str = "",
        guide_strengths: str = "",
    ) -> io.NodeOutput:
        _check(model, upscale_model, temporal_upscale_model, temporal_rounds)
        if has_parts(positive):
            raise ValueError("LTX-2 Sample DFR samples tiles with times of their own: use LTX-2 Prompt")
        guides = parse_guides(guide_images, guide_frames, guide_strengths, plan)
        detail = None if detail_model is None else detail_scale_of(detail_model)
        first, *others = plan_stages_of(model, plan, seed, temporal_rounds, detail)
        stages = (replace(first, image_strength=image_strength), *others)
        networks = HostDfr(
            model=model,
            detail_model=detail_model,
            positive=positive,
            video_vae=video_vae,
            upscaler=upscale_model,
            temporal_upscaler=temporal_upscale_model,
            seed=seed,
            count=len(stages),
        )
        items = [_image_items(video_vae, image, guides, stage) for stage in stages[:2]]
        latents, _ = DfrRun(networks, stages, items, detail).sample()
        lines = [*describe_dfr(stages)]
        lines += [f"image guides frame {guide.frame}, strength {guide.strength:g}" for guide in guides]
        report = "\n".join(lines)
        clip, finished = marked_guides(from_av(latents, {"type": "audio"}), 0), stages[0].finished
        if image is not None:
            # With it the decode node says how much the clip moves, and how near its first frame is to it.
            crf, _ = chosen_crf(video_vae, BY_MODEL, 1)
            clip = remember(clip, AttachedImage(image[:1], stages[1].image_strength, crf))
        return io.NodeOutput(clip, finished, finished.fps, report, ui=ui.PreviewText(report))


def plan_stages_of(
    model: Model, plan: ClipPlan, seed: int, rounds: int, detail: int | None
) -> tuple[Stage, ...]:
    """Plan the DFR pipeline of a clip of the size and length ``plan``, in ``rounds`` temporal rounds.

    A temporal round doubles the frame rate. ``detail`` is how many times smaller than the clip the reference
    of the second stage is, None without one.
    """
    request = Request(
        prompt="",
        pipeline_kind="dfr",
        temporal_rounds=rounds,
        width=plan.width,
        height=plan.height,
        num_frames=plan.frames,
        fps=plan.fps,
        snap="error",
        seed=seed,
    )
    return plan_dfr(request, Numerics.COMFY, recipe_of_model(model), detail=detail)


def _check(model: Model, upscaler: UpscaleModel, temporal: UpscaleModel | None, rounds: int) -> None:
    """Raise ValueError for full weights or those that generate no keyframes, and for unfit upscalers."""
    if not hasattr(model.model.diffusion_model, "keyframes_abs_pos_embedding"):
        raise ValueError(
            "this model cannot generate keyframes, which LTX-2.5 introduced: load a checkpoint of it for "
            "LTX-2 Sample DFR"
        )
    check_distilled_model(model, Request(prompt="", pipeline_kind="dfr"))
    if upscaler is None:
        raise ValueError("no upscaler was loaded: choose one in LTX-2 Load All instead of none")
    check_temporal(upscaler, wanted=False)
    if rounds and temporal is None:
        raise ValueError(
            f"temporal_rounds is {rounds} and temporal_upscale_model is not connected: load the temporal "
            "upscaler with LTX-2 Load Latent Upscaler, or set temporal_rounds to 0"
        )
    if temporal is not None:
        check_temporal(temporal, wanted=True)


class ImageGuide(NamedTuple):
    """An IMAGE of one frame that guides the clip at pixel frame ``frame`` with ``strength``."""

    image: Tensor
    frame: int
    strength: float


def parse_guides(
    images: Tensor | None, frames: str, strengths: str, plan: ClipPlan
) -> tuple[ImageGuide, ...]:
    """Pair the IMAGE ``images`` with frames and strengths, two texts, for a clip of the length of ``plan``.

    Frames are numbers divided by commas, -1 is the last; strengths are one number for all or one for each,
    and empty is 1. Raises ValueError for text that cannot be parsed, and for another number of images.
    """
    if images is None:
        if frames.strip() or strengths.strip():
            raise ValueError(
                "guide_frames and guide_strengths have no effect without guide_images: connect them"
            )
        return ()
    placed = parse_frames(frames, plan.frames) if frames.strip() else ()
    if len(placed) != len(images):
        raise ValueError(
            f"guide_images are {len(images)} images and guide_frames {len(placed)} frames: name a frame for "
            "each image, such as 48, -1"
        )
    words = strengths.replace(",", " ").split() or ["1"]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"guide_strengths {strengths!r} must be numbers, such as 1 or 0.8, 1") from None
    if len(numbers) not in (1, len(placed)):
        raise ValueError(
            f"guide_strengths are {len(numbers)} numbers for {len(placed)} images: give one for all, or one "
            "for each"
        )
    for number in numbers:
        check_strength(number, "a guide image")
    each = numbers * len(placed) if len(numbers) == 1 else numbers
    return tuple(map(ImageGuide, images.split(1), placed, each))


def detail_scale_of(model: Model) -> int:
    """How many times smaller than the clip the reference of the detail LoRA in ``model`` is.

    The result is ``DETAIL_SCALE`` if the file of the LoRA does not say it.
    """
    stated = [
        value
        for key, value in (model.get_attachment(ATTACHMENT) or {}).items()
        if key.endswith(REFERENCE_KEYS[0])
    ]
    return downscale_of({REFERENCE_KEYS[0]: stated[-1]}) if stated else DETAIL_SCALE


def _image_items(
    video_vae: Vae, image: Tensor | None, guides: Sequence[ImageGuide], stage: Stage
) -> list[ConditioningItem]:
    """The first image and the guides, encoded at the size of ``stage``, as its conditioning.

    ``image`` is None without a first image.
    """
    crf, _ = chosen_crf(video_vae, BY_MODEL, 1)
    video = video_of(empty_latent(stage.clip, 1))

    def encoded(one: Tensor) -> Tensor:
        latent: Tensor = checked_video_vae(video_vae).encode(image_at_stage(one, video, crf))
        return latent

    items: list[ConditioningItem] = []
    if image is not None:
        items.append(ImageInPlace(latent=encoded(image[:1]), strength=stage.image_strength))
    for guide in guides:
        items.append(
            GuideFrames(
                latent=encoded(guide.image), frame=guide.frame, strength=guide.strength, single_frame=True
            )
        )
    return items
