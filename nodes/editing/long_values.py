"""The inputs of the node LTX-2 Long Video as one value, and their translation to the library's plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor

from ...ltx2_core.editing.long_clip import LongPlan, plan_long
from ...ltx2_core.editing.long_options import LongVideo
from ...ltx2_core.editing.sources import FramesInMemory
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.storage.files import JsonObject
from ...ltx2_core.storage.identity import tensor_identity
from ...ltx2_core.text.schedule import PromptSchedule
from ..conditioning.iclora import downscale_of, every_of
from ..convert import clip_audio, frames_from_image, track_of
from ..host.identity import model_identity
from ..host.values import Audio, Clip, Model, Options, Vae
from ..sampling.presets import preset_of
from ..sampling.runs import RunWidgets, plan_run, settings_for
from .codecs import HostCodecs, waveform_of
from .long_sampler import HostSampler, keyframes_of


@dataclass(frozen=True, kw_only=True, eq=False)
class LongInputs:
    """The inputs of the node LTX-2 Long Video except seed and folder, by the names of its widgets.

    ``run`` holds those of the sampling run. Optional inputs are None if they are not connected.
    """

    model: Model
    clip: Clip
    video_vae: Vae
    plan: ClipPlan
    prompts: str
    negative: str
    run: RunWidgets
    window_frames: int
    overlap_frames: int
    overlap_strength: float
    adain: float
    image: Tensor | None = None
    keyframes: Tensor | None = None
    keyframe_frames: str = ""
    keyframe_strength: float = 1.0
    audio_vae: Vae | None = None
    audio: Audio | None = None
    source: Tensor | None = None
    source_strength: float = 1.0
    denoise: float = 1.0
    downscale: int = 0
    iclora_parameters: Options | None = None

    @classmethod
    def of(cls, widgets: Mapping[str, Any]) -> LongInputs:
        """Create this value from all inputs by name; those of the sampling run are collected in ``run``."""
        of_run = {field.name for field in fields(RunWidgets)}
        run = RunWidgets(**{name: value for name, value in widgets.items() if name in of_run})
        return cls(run=run, **{name: value for name, value in widgets.items() if name not in of_run})

    @property
    def codecs(self) -> HostCodecs:
        return HostCodecs(self.video_vae, self.audio_vae)

    @property
    def chosen(self) -> str:
        """A line for the report: sampler and schedule, if the model's recipe (default settings) chose them.

        It is empty if the widgets decide all.
        """
        if self.run.preset is not None and self.run.has_preset:
            chosen = preset_of(self.run.preset, self.model)
            return chosen.reason and f"\n{chosen.preset.sampler}{chosen.reason}"
        settings = settings_for(self.model, self.run)
        return settings.reason and f"\n{settings.sampler}{settings.reason}"

    def planned(self, seed: int) -> LongPlan:
        """Plan the windows of the clip; ``seed`` is that of its noise.

        Raises ValueError for inputs that do not fit the clip or each other.
        """
        how = LongVideo(
            window_frames=self.window_frames,
            overlap_frames=self.overlap_frames,
            overlap_strength=self.overlap_strength,
            adain_factor=self.adain,
            keyframes=keyframes_of(self.keyframes, self.keyframe_frames, self.keyframe_strength, self.plan),
            source=None if self.source is None else FramesInMemory(frames_from_image(self.source)),
            source_strength=self.source_strength,
            source_scale=self.downscale or downscale_of(self.iclora_parameters),
            denoise=self.denoise,
        )
        schedule = PromptSchedule.parse(self.prompts, seconds=self.plan.seconds)
        if self.audio is None:
            return plan_long(self.plan, schedule, how, seed=seed)
        # Cut once to the clip, so that file and latent are of the same samples.
        waveform, rate, _ = clip_audio(self.audio, 0.0, self.plan.audio_latents)
        cut = Audio(waveform=waveform, sample_rate=rate)
        latent, codecs = None, self.codecs
        # A model without audio does not attend to it; it is only saved with the clip.
        if codecs.has_audio:
            latent = codecs.encode_audio(*waveform_of(cut), latent_frames=self.plan.audio_latents)
        return plan_long(self.plan, schedule, how, seed=seed, audio=track_of(cut, 0), audio_latent=latent)

    def sampler(self) -> HostSampler:
        """Create the object that samples the windows with the connected MODEL."""
        return HostSampler(
            model=self.model,
            text_encoder=self.clip,
            codecs=self.codecs,
            plan_run=partial(plan_run, self.model, widgets=self.run, denoise=self.denoise),
            negative=self.negative,
            image=self.image,
            reference_step=every_of(self.iclora_parameters),
        )

    def settings(self, graph: str) -> JsonObject:
        """Everything that the clip depends on, as JSON values; their digest names the clip's folder.

        ``graph`` is the digest of all nodes upstream of this node.
        """
        images = (self.image, self.keyframes, self.source)
        # The keys are those of folders that exist, which must stay resumable.
        return {
            "graph": graph,
            "clip": [self.plan.width, self.plan.height, self.plan.frames, self.plan.fps],
            "pictures": [None if one is None else tensor_identity(one) for one in images],
            "sound": None if self.audio is None else tensor_identity(self.audio["waveform"]),
        }

    def models(self) -> dict[str, str | None]:
        """Digests of the models that are used, so that a folder of windows is not resumed with other models.

        A digest is None for a model that is not connected.
        """
        return model_identity(
            model=self.model, text_encoder=self.clip, video_vae=self.video_vae, audio_vae=self.audio_vae
        )
