"""Runs the stages of the DFR pipeline with a MODEL of ComfyUI.

Letters: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import node_helpers
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.items import Conditioning as ConditioningItem
from ...ltx2_core.conditioning.slots import KeyframeSlots
from ...ltx2_core.run.dfr import StageResult
from ...ltx2_core.run.stages import Stage
from ...ltx2_core.sampling.guidance import Guidance
from ...ltx2_core.types import AVLatent
from ..clip.plan import empty_latent
from ..conditioning.attached import marked_guides
from ..conditioning.guide_latents import attach_guide
from ..conditioning.keyframe_latents import attach_keyframes
from ..convert import video_of
from ..host.latents import from_av, to_av
from ..host.progress import part_of_job, show_text
from ..host.sampling import GuidedSampling
from ..host.upscaling import upscale_video
from ..host.values import Conditioning, Model, UpscaleModel, Vae
from .two_stage import applied


@dataclass(frozen=True, kw_only=True, eq=False)
class HostDfr:
    """Samples and upscales for the DFR pipeline of LTX-2.5 with models of ComfyUI.

    ``detail_model`` samples the second stage; if it is None, ``model`` does. ``temporal_upscaler`` is None
    without temporal rounds, each of which doubles the frame rate. ``seed`` decides the noise of all stages,
    of which there are ``count``.
    """

    model: Model
    detail_model: Model | None
    positive: Conditioning
    video_vae: Vae
    upscaler: UpscaleModel
    temporal_upscaler: UpscaleModel | None
    seed: int
    count: int

    def sample(
        self, index: int, stage: Stage, start: AVLatent | None, items: Sequence[ConditioningItem]
    ) -> StageResult:
        """Sample ``stage``, number ``index`` from 0, from the latents ``start``, None for an empty clip.

        ``items`` are its conditioning, such as images and keyframes to generate.
        """
        # Without guidance the negative conditioning has no effect, but a sampling run takes one.
        positive = negative = node_helpers.conditioning_set_values(
            self.positive, {"frame_rate": stage.clip.fps}
        )
        latent = marked_guides(empty_latent(stage.clip, 1) if start is None else from_av(start), 0)
        first = 0
        for item in items:
            if isinstance(item, KeyframeSlots):
                first = video_of(latent)["samples"].shape[2]
                positive, negative, latent = attach_keyframes(
                    positive, negative, latent, item.frames, item.initial
                )
            elif isinstance(item, GuideFrames):
                positive, negative, latent = attach_guide(positive, negative, latent, item)
            else:
                latent = applied(latent, item)
        sampling = GuidedSampling(guidance=Guidance(), sampler=stage.sampler, eta=stage.eta)
        model = self.detail_model if index == 1 and self.detail_model is not None else self.model
        # Tiles have seeds by the round, both stages consecutive ones.
        seed = self.seed + (index if stage.step_seed is None else stage.step_seed)
        with part_of_job(f"stage {index + 1} of {self.count}"):
            made = to_av(sampling(model, positive, negative, latent, seed=seed % 2**64, sigmas=stage.sigmas))
        assert made.video is not None
        keyframes = made.video[:, :, first : first + len(stage.keyframes)]
        return StageResult(AVLatent(made.video[:, :, : stage.clip.latent_frames], made.audio), keyframes)

    def enlarge(self, video: Tensor) -> Tensor:
        """Upscale a video latent in space, usually to twice its rows and columns."""
        return upscale_video(self.upscaler, video, self.video_vae)

    def double_frames(self, video: Tensor) -> Tensor:
        """Upscale a video latent in time: (1, C, F, H, W) -> (1, C, 2F - 1, H, W)."""
        assert self.temporal_upscaler is not None
        return upscale_video(self.temporal_upscaler, video, self.video_vae)

    def report(self, what: str) -> None:
        """Write ``what``, the name of the work that begins now, under the running node."""
        show_text(what)
