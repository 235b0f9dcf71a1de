"""A node that samples a clip by the DFR pipeline of LTX-2.5, from the prompt to the last temporal round."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.items import Conditioning as ConditioningItem
from ...ltx2_core.conditioning.items import ImageInPlace
from ...ltx2_core.run.dfr import DfrRun
from ...ltx2_core.run.dfr_plan import DETAIL_SCALE, describe_dfr, plan_dfr
from ...ltx2_core.run.request import Request
from ...ltx2_core.run.stages import Stage
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.types import Numerics
from ..clip.plan import empty_latent
from ..conditioning.attached import marked_guides
from ..conditioning.images import chosen_crf
from ..convert import image_at_stage, video_of
from ..host.latents import from_av
from ..host.recipe import recipe_of_model
from ..host.upscaling import check_temporal
from ..host.values import Conditioning, Model, UpscaleModel, Vae
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
            search_aliases=["dfr", "fidelity", "high frame rate", "48 fps", "60 fps", "temporal upscale"],
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
    ) -> io.NodeOutput:
        _check(model, upscale_model, temporal_upscale_model, temporal_rounds)
        detail = None if detail_model is None else DETAIL_SCALE
        stages = plan_stages_of(model, plan, seed, temporal_rounds, detail)
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
        items = [_image_items(video_vae, image, stage) for stage in stages[:2]]
        latents, _ = DfrRun(networks, stages, items, detail).sample()
        report = "\n".join(describe_dfr(stages))
        clip, finished = marked_guides(from_av(latents, {"type": "audio"}), 0), stages[0].finished
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
    """Raise ValueError for a model that generates no keyframes, and for upscalers of the wrong kind."""
    if not hasattr(model.model.diffusion_model, "keyframes_abs_pos_embedding"):
        raise ValueError(
            "this model cannot generate keyframes, which LTX-2.5 introduced: load a checkpoint of it for "
            "LTX-2 Sample DFR"
        )
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


def _image_items(video_vae: Vae, image: Tensor | None, stage: Stage) -> list[ConditioningItem]:
    """The first image, encoded at the size of ``stage``, as its conditioning; nothing without an image."""
    if image is None:
        return []
    crf, _ = chosen_crf(video_vae, BY_MODEL, 1)
    fitted = image_at_stage(image[:1], video_of(empty_latent(stage.clip, 1)), crf)
    return [ImageInPlace(latent=video_vae.encode(fitted), strength=stage.image_strength)]
