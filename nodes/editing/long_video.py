"""Nodes for clips of any length with audio, sampled window by window; a stopped run can be resumed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ...ltx2_core.editing.long_clip import SampledWindows, sample_windows
from ...ltx2_core.editing.windows import WindowStore
from ...ltx2_core.run.request import NEGATIVE_PROMPT
from ..clip.plan import Plan
from ..convert import track_of
from ..host.state import state_folder, upstream
from ..host.values import Audio, Vae
from ..host.video import write_edit
from ..inputs import file_crf_input, model_input, text_encoder_input
from ..sampling.runs import run_extras, run_inputs
from .codecs import HostCodecs
from .long_inputs import conditioning_inputs, source_inputs, window_inputs
from .long_values import LongInputs

CATEGORY = "LTX-2/long video"
Windows = io.Custom("LTX2AV_WINDOWS")


class LTX2AVLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLongVideo",
            has_intermediate_output=True,
            display_name="LTX-2 Long Video",
            search_aliases=[
                "long",
                "minutes",
                "loop",
                "windows",
                "infinite",
                "endless",
                "looping sampler",
                "prompt schedule",
                "timeline",
                "loop video",
                "seamless",
            ],
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
    def execute(cls, seed: int, folder: str, **widgets: Any) -> io.NodeOutput:
        inputs = LongInputs.of(widgets)
        long = inputs.planned(seed)
        # The digest of the graph names the folder, so that a change anywhere upstream starts new windows.
        settings = inputs.settings(upstream(cls.hidden.prompt, cls.hidden.unique_id))
        store = WindowStore(state_folder(folder, settings), settings, inputs.models())
        sampled = sample_windows(long, store, inputs.codecs, inputs.sampler())
        report = sampled.describe() + inputs.chosen
        return io.NodeOutput(sampled, report, ui=ui.PreviewText(report))


class LTX2AVDecodeLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeLongVideo",
            display_name="LTX-2 Decode Long Video",
            search_aliases=["save long video", "join windows", "vae decode"],
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
