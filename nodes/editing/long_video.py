"""Clips of any length with audio, sampled window by window and resumed after a stop."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypedDict

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.editing.long_clip import LongVideo, SampledWindows, plan_long, sample_windows
from ...ltx2_core.editing.prompts import PromptSchedule
from ...ltx2_core.editing.protocols import Waveform
from ...ltx2_core.editing.sources import FramesInMemory
from ...ltx2_core.editing.windows import WindowStore
from ...ltx2_core.run.request import NEGATIVE_PROMPT
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.storage.identity import tensor_identity
from ..clip.plan import Plan
from ..conditioning.guides import downscale_of, every_of
from ..convert import clip_audio, frames_from_image, track_of
from ..host.identity import model_identity
from ..host.state import state_folder, upstream
from ..host.values import Audio, Clip, Model, Options, Vae
from ..host.video import write_edit
from ..inputs import file_crf_input, model_input, text_encoder_input
from ..sampling.stage import plan_run, run_extras, run_inputs
from .codecs import HostCodecs, waveform_of
from .long_inputs import conditioning_inputs, source_inputs, window_inputs
from .long_sampler import HostSampler, keyframes_of

CATEGORY = "LTX-2/long video"
Windows = io.Custom("LTX2AV_WINDOWS")


class LTX2AVLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLongVideo",
            has_intermediate_output=True,
            display_name="LTX-2 Long Video",
            category=CATEGORY,
            description="Samples a clip of any length in overlapping windows, video and audio together. "
            "Every finished window is saved: after a stop, run the same graph again to resume. With a source "
            "it is video to video, or a detailer with an IC-LoRA.",
            inputs=[
                model_input(),
                text_encoder_input(),
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes keyframes and the source."),
                Plan.Input("plan", tooltip="Size, length and frame rate, from LTX-2 Clip Plan."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    tooltip="One prompt for the whole clip; or parts between ; or on lines, each after its "
                    "time, such as 0-4: a red ball, 0:30: or 50%:, with # for comments; or prompts "
                    'between |, one for each window; or JSON: [{"from": 0, "prompt": "..."}].',
                ),
                io.String.Input(
                    "negative", multiline=True, default=NEGATIVE_PROMPT, tooltip="What to avoid."
                ),
                *run_inputs(),
                *window_inputs(),
                *conditioning_inputs(),
                *source_inputs(),
                *run_extras(),
            ],
            outputs=[
                Windows.Output(display_name="windows", tooltip="For LTX-2 Decode Long Video."),
                io.String.Output(display_name="report", tooltip="The windows, and where they are saved."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Clip,
        video_vae: Vae,
        plan: ClipPlan,
        prompts: str,
        negative: str,
        seed: int,
        window_frames: int,
        overlap_frames: int,
        overlap_strength: float,
        adain: float,
        folder: str,
        image: Tensor | None = None,
        keyframes: Tensor | None = None,
        keyframe_frames: str = "",
        keyframe_strength: float = 1.0,
        audio_vae: Vae | None = None,
        audio: Audio | None = None,
        source: Tensor | None = None,
        source_strength: float = 1.0,
        denoise: float = 1.0,
        downscale: int = 0,
        iclora_parameters: Options | None = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        codecs = HostCodecs(video_vae, audio_vae)
        how = LongVideo(
            window_frames=window_frames,
            overlap_frames=overlap_frames,
            overlap_strength=overlap_strength,
            adain_factor=adain,
            keyframes=keyframes_of(keyframes, keyframe_frames, keyframe_strength, plan),
            source=None if source is None else FramesInMemory(frames_from_image(source)),
            source_strength=source_strength,
            source_scale=downscale or downscale_of(iclora_parameters),
            denoise=denoise,
        )
        schedule = PromptSchedule.parse(prompts, seconds=plan.seconds)
        long = plan_long(plan, schedule, how, seed=seed, **input_audio(audio, codecs, plan))
        sampler = HostSampler(
            model=model,
            text_encoder=clip,
            codecs=codecs,
            plan_run=partial(plan_run, model, denoise=denoise, **sampling),
            negative=negative,
            image=image,
            reference_step=every_of(iclora_parameters),
        )
        # The keys are those of folders that exist, which must stay resumable.
        settings = {
            "graph": upstream(cls.hidden.prompt, cls.hidden.unique_id),
            "clip": [plan.width, plan.height, plan.frames, plan.fps],
            "pictures": [None if one is None else tensor_identity(one) for one in (image, keyframes, source)],
            "sound": None if audio is None else tensor_identity(audio["waveform"]),
        }
        models = model_identity(model=model, text_encoder=clip, video_vae=video_vae, audio_vae=audio_vae)
        store = WindowStore(state_folder(folder, settings), settings, models)
        sampled = sample_windows(long, store, codecs, sampler)
        report = sampled.describe()
        return io.NodeOutput(sampled, report, ui=ui.PreviewText(report))


class LTX2AVDecodeLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeLongVideo",
            display_name="LTX-2 Decode Long Video",
            category=CATEGORY,
            description="Decodes the windows of LTX-2 Long Video straight into a video file with audio; "
            "memory does not grow with the length. Connect Save Video to save it.",
            inputs=[
                Windows.Input("windows", tooltip="From LTX-2 Long Video."),
                io.Vae.Input("video_vae", tooltip="Video VAE of the checkpoint."),
                file_crf_input(),
                io.Vae.Input(
                    "audio_vae",
                    optional=True,
                    tooltip="Audio VAE of the checkpoint; not needed where audio was an input of the clip.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Audio to use in place of the sampled audio."),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The finished clip, for Save Video."),
            ],
        )

    @classmethod
    def execute(
        cls,
        windows: SampledWindows,
        video_vae: Vae,
        crf: int,
        audio_vae: Vae | None = None,
        audio: Audio | None = None,
    ) -> io.NodeOutput:
        if audio is not None:
            # Connected audio replaces the sampled one in the file without being sampled again.
            windows = replace(windows, audio=track_of(audio, 0), audio_start_s=0.0)
        return io.NodeOutput(write_edit(windows.finish(HostCodecs(video_vae, audio_vae)), crf))


class InputAudio(TypedDict):
    """Input audio as a file takes it, and its latent."""

    audio: Waveform | None
    audio_latent: Tensor | None


def input_audio(audio: Audio | None, codecs: HostCodecs, clip: ClipPlan) -> InputAudio:
    """AUDIO as the audio of a long clip."""
    if audio is None:
        return {"audio": None, "audio_latent": None}
    # Cut once to the clip, so that file and latent are of the same samples.
    waveform, rate, _ = clip_audio(audio, 0.0, clip.audio_latents)
    cut = Audio(waveform=waveform, sample_rate=rate)
    latent = codecs.encode_audio(*waveform_of(cut), latent_frames=clip.audio_latents)
    return {"audio": track_of(cut, 0), "audio_latent": latent}
