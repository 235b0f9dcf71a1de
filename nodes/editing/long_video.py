"""Clips of any length with sound, window by window, that go on where they were stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.editing import Edit, PromptSchedule
from ...ltx2_core.editing.audio_track import decoded_audio
from ...ltx2_core.editing.windows import (
    Window,
    WindowStore,
    audio_pieces,
    make_windows,
    plan_windows,
    video_pieces,
)
from ...ltx2_core.run.generation import as_long_as
from ...ltx2_core.run.request import NEGATIVE_PROMPT
from ...ltx2_core.shapes import ClipPlan
from ..clip.plan import Plan, empty_latent
from ..clip.prompt import encode_prompt
from ..conditioning.guides import downscale_of, every_of
from ..convert import audio_from_decoder, track_of
from ..host.state import state_folder, upstream
from ..host.video import decoded_frames, write_edit
from ..sampling.stage import plan_run, run_extras, run_inputs
from .long_inputs import given_inputs, source_inputs, window_inputs
from .long_windows import WindowSampler, identity, kept_sound, placed_keyframes, shown_source

CATEGORY = "LTX-2/long video"
Windows = io.Custom("LTX2AV_WINDOWS")


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledWindows:
    """A finished long clip: its windows lie in files. ``sound`` is the given one, an AUDIO."""

    clip: ClipPlan
    windows: tuple[Window, ...]
    store: WindowStore
    sound: dict[str, Any] | None


class LTX2AVLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLongVideo",
            has_intermediate_output=True,
            display_name="LTX-2 Long Video",
            category=CATEGORY,
            description="Samples a clip of any length in windows that overlap, picture and sound together. "
            "Every finished window is saved: run the same graph again after a stop and it goes on there. "
            "With a source it is video to video, or a detailer with an IC-LoRA.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with LoRAs if any."),
                io.Clip.Input("clip", tooltip="Text encoder from LTX-2 Load All or LTX-2 Load Text Encoder."),
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes keyframes and the source."),
                Plan.Input("plan", tooltip="Size, length and frame rate, from LTX-2 Clip Plan."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    tooltip="One prompt for all of it; or lines such as 0-4: a red ball; or prompts between "
                    '|, one a window; or JSON: [{"from": 0, "prompt": "..."}].',
                ),
                io.String.Input(
                    "negative", multiline=True, default=NEGATIVE_PROMPT, tooltip="What to keep away from."
                ),
                *run_inputs(),
                *window_inputs(),
                *given_inputs(),
                *source_inputs(),
                *run_extras(),
            ],
            outputs=[
                Windows.Output(display_name="windows", tooltip="For LTX-2 Decode Long Video."),
                io.String.Output(display_name="report", tooltip="The windows, and where they are kept."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        video_vae: Any,
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
        audio_vae: Any = None,
        audio: Any = None,
        source: Tensor | None = None,
        source_strength: float = 1.0,
        denoise: float = 1.0,
        downscale: int = 0,
        iclora_parameters: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        windows = plan_windows(plan, window_frames, overlap_frames)
        schedule = PromptSchedule.parse(prompts)
        placed = placed_keyframes(video_vae, keyframes, keyframe_frames, keyframe_strength, plan)
        scale, every = downscale or downscale_of(iclora_parameters), every_of(iclora_parameters)
        shown = shown_source(source, plan, source_strength, denoise, scale, every)
        sound = None if audio is None else kept_sound(audio, audio_vae, plan)
        settings = {
            "graph": upstream(cls.hidden.prompt, cls.hidden.unique_id),
            "clip": [plan.width, plan.height, plan.frames, plan.fps],
            "pictures": [identity(one) for one in (image, keyframes, source)],
            "sound": None if audio is None else identity(audio["waveform"]),
        }
        store = WindowStore(state_folder(folder, settings), settings)
        before = sum(store.has(window.index) for window in windows)
        missing = [window for window in windows if not store.has(window.index)]
        texts = {schedule.at(window.prompt_s, window.index): None for window in missing}
        sampler = WindowSampler(
            model=model,
            video_vae=video_vae,
            run=plan_run(model, empty_latent(windows[0].clip, 1), denoise=denoise, **sampling),
            seed=seed,
            prompts={text: encode_prompt(clip, text, plan.fps) for text in texts},
            negative=encode_prompt(clip, negative, plan.fps) if missing else None,
            schedule=schedule,
            image=image,
            shown=shown,
            sound=None if sound is None else sound[1],
        )
        make_windows(windows, store, sampler, strength=overlap_strength, adain_factor=adain, keyframes=placed)
        report = (
            f"{len(windows)} windows of up to {window_frames} frames for {plan.frames}; {before} of them "
            f"were there already, in {store.folder.parent.name}/{store.folder.name}"
        )
        made = SampledWindows(
            clip=plan, windows=windows, store=store, sound=None if sound is None else sound[0]
        )
        return io.NodeOutput(made, report, ui=ui.PreviewText(report))


class LTX2AVDecodeLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeLongVideo",
            display_name="LTX-2 Decode Long Video",
            category=CATEGORY,
            description="Decodes the windows of LTX-2 Long Video straight into a video file with sound; "
            "memory does not grow with the length. Connect Save Video to keep it.",
            inputs=[
                Windows.Input("windows", tooltip="From LTX-2 Long Video."),
                io.Vae.Input("video_vae", tooltip="Video VAE of the checkpoint."),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=0,
                    max=51,
                    tooltip="Quality of the H.264 file: lower is better and larger, 18 looks lossless.",
                ),
                io.Vae.Input(
                    "audio_vae",
                    optional=True,
                    tooltip="Audio VAE of the checkpoint; not needed with a sound that was given.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Sound to use in place of the one that was made."
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The finished clip, for Save Video."),
            ],
        )

    @classmethod
    def execute(
        cls, windows: SampledWindows, video_vae: Any, crf: int, audio_vae: Any = None, audio: Any = None
    ) -> io.NodeOutput:
        clip, store = windows.clip, windows.store
        given = windows.sound if audio is None else audio
        if given is None and audio_vae is None:
            raise ValueError("the sound was made with the clip: connect the audio VAE that decodes it")
        if given is not None:
            track, rate = _fitted(given, clip)
            sounds = partial(iter, (track,))
        else:
            rate = audio_vae.first_stage_model.output_sample_rate
            decode = partial(_decoded, audio_vae)
            sounds = partial(_decoded_audio, decode, windows, rate)
        edit = Edit(
            pictures=lambda: _cpu(decoded_frames(video_vae, video_pieces(windows.windows, store))),
            byte_pictures=lambda: decoded_frames(
                video_vae, video_pieces(windows.windows, store), as_bytes=True
            ),
            sounds=sounds,
            frame_count=clip.frames,
            width=clip.width,
            height=clip.height,
            fps=clip.fps,
            rate=rate,
        )
        return io.NodeOutput(write_edit(edit, crf))


def _fitted(audio: dict[str, Any], clip: ClipPlan) -> tuple[Tensor, int]:
    """A sound ((C, S), Hz) as long as the pictures."""
    track, rate = track_of(audio, 0)
    return as_long_as(track, rate, clip.seconds), rate


def _decoded(audio_vae: Any, latent: Tensor) -> Tensor:
    """Audio latent (1, 8, T, 16) -> (C, S)."""
    waveform: Tensor = audio_from_decoder(audio_vae.decode(latent), 1)["waveform"][0]
    return waveform.float().cpu()


def _decoded_audio(decode: Callable[[Tensor], Tensor], made: SampledWindows, rate: int) -> Iterator[Tensor]:
    return decoded_audio(decode, audio_pieces(made.windows, made.store), made.clip, rate)


def _cpu(chunks: Iterator[Tensor]) -> Iterator[Tensor]:
    return (chunk.float().cpu() for chunk in chunks)
