"""Loaders: checkpoints, text encoders, upscalers and LoRAs from the host's model folders."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .host import folders
from .host.clip import load_clip
from .host.lora import apply_lora
from .host.model import load_model
from .host.upscaler import load_upscaler
from .host.vae import load_audio_vae, load_video_vae

CATEGORY = "LTX-2/loaders"
NONE = "none"


class LTX2AVLoadCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadCheckpoint",
            display_name="LTX-2 Load Checkpoint",
            category=CATEGORY,
            description="Loads the model, the video VAE and the audio VAE of a single-file LTX-2 checkpoint.",
            inputs=[_checkpoint("Single-file LTX-2 checkpoint in models/checkpoints.")],
            outputs=_checkpoint_outputs(),
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        path = folders.path_of(folders.CHECKPOINTS, ckpt_name)
        return io.NodeOutput(load_model(path), load_video_vae(path), load_audio_vae(path))


class LTX2AVLoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadTextEncoder",
            display_name="LTX-2 Load Text Encoder",
            category=CATEGORY,
            description="Loads Gemma 3 together with the text projection that the checkpoint holds.",
            inputs=[
                _text_encoder(),
                _checkpoint("The checkpoint whose model the text is for: it holds the text projection."),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="Text encoder for LTX-2 Prompt.")],
        )

    @classmethod
    def execute(cls, text_encoder: str, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(_load_clip(text_encoder, ckpt_name))


class LTX2AVLoadUpscaler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadUpscaler",
            display_name="LTX-2 Load Latent Upscaler",
            category=CATEGORY,
            description="Loads a latent upscaler: between two stages it makes the video latent larger.",
            inputs=[
                _upscaler(
                    folders.files(folders.UPSCALERS), "Latent upscaler in models/latent_upscale_models."
                )
            ],
            outputs=[
                io.LatentUpscaleModel.Output(
                    display_name="upscale_model", tooltip="For LTX-2 Latent Upscale."
                )
            ],
        )

    @classmethod
    def execute(cls, upscaler: str) -> io.NodeOutput:
        return io.NodeOutput(load_upscaler(folders.path_of(folders.UPSCALERS, upscaler)))


class LTX2AVLoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadLora",
            has_intermediate_output=True,
            display_name="LTX-2 Load LoRA",
            category=CATEGORY,
            description="Adds a LoRA of any naming style to the model and says how many of its layers "
            "matched. A LoRA of which nothing matches is an error instead of being ignored.",
            inputs=[
                io.Model.Input("model", tooltip="The model to add the LoRA to; it stays as it is."),
                io.Combo.Input(
                    "lora", options=folders.files(folders.LORAS), tooltip="LoRA file in models/loras."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How strongly the LoRA acts: 0 is off, negative values do the opposite. "
                    "Distilled LoRAs: 1.0 for LTX-2.0, about 0.5 for 2.3.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.String.Output(display_name="report", tooltip="Which layers matched."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, lora: str, strength: float) -> io.NodeOutput:
        patched, report = apply_lora(model, folders.path_of(folders.LORAS, lora), strength)
        return io.NodeOutput(patched, report, ui=ui.PreviewText(report))


class LTX2AVLoadAll(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadAll",
            display_name="LTX-2 Load All",
            category=CATEGORY,
            description="Loads everything that a graph needs: model, text encoder, both VAEs and an "
            "upscaler.",
            inputs=[
                _checkpoint("Single-file LTX-2 checkpoint in models/checkpoints."),
                _text_encoder(),
                _upscaler(
                    [NONE, *folders.files(folders.UPSCALERS)],
                    "Latent upscaler for the second stage, or none for graphs of one stage.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The transformer, for sampling."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder for LTX-2 Prompt."),
                io.Vae.Output(display_name="video_vae", tooltip="Encodes and decodes pictures."),
                io.Vae.Output(display_name="audio_vae", tooltip="Encodes and decodes sound."),
                io.LatentUpscaleModel.Output(
                    display_name="upscale_model", tooltip="For LTX-2 Latent Upscale."
                ),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str, text_encoder: str, upscaler: str) -> io.NodeOutput:
        path = folders.path_of(folders.CHECKPOINTS, ckpt_name)
        upscale_model = (
            None if upscaler == NONE else load_upscaler(folders.path_of(folders.UPSCALERS, upscaler))
        )
        clip = _load_clip(text_encoder, ckpt_name)
        return io.NodeOutput(
            load_model(path), clip, load_video_vae(path), load_audio_vae(path), upscale_model
        )


def _load_clip(text_encoder: str, ckpt_name: str) -> Any:
    checkpoint = folders.path_of(folders.CHECKPOINTS, ckpt_name)
    return load_clip(folders.text_encoder_path(text_encoder), checkpoint)


def _checkpoint(tooltip: str) -> io.Input:
    return io.Combo.Input("ckpt_name", options=folders.files(folders.CHECKPOINTS), tooltip=tooltip)


def _text_encoder() -> io.Input:
    return io.Combo.Input(
        "text_encoder",
        options=folders.text_encoders(),
        tooltip="Gemma 3 12B in models/text_encoders: a folder with config.json, tokenizer and weights "
        "appears here by its first weight file.",
    )


def _upscaler(options: list[str], tooltip: str) -> io.Input:
    return io.Combo.Input("upscaler", options=options, tooltip=tooltip)


def _checkpoint_outputs() -> list[io.Output]:
    return [
        io.Model.Output(display_name="model", tooltip="The transformer, for sampling."),
        io.Vae.Output(display_name="video_vae", tooltip="Encodes and decodes pictures."),
        io.Vae.Output(display_name="audio_vae", tooltip="Encodes and decodes sound."),
    ]
