"""Components through the pack's host layer, without its nodes."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import folder_paths
from comfy_api.latest import io


class LTX2ProbeLoadModel(io.ComfyNode):
    """MODEL of a checkpoint, through the pack's host layer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLoadModel", inputs=[io.String.Input("ckpt_name")], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(_host("model").load_model_as_host(_path("checkpoints", ckpt_name)))


class LTX2ProbeLoadVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLoadVAE",
            inputs=[io.String.Input("ckpt_name"), io.Boolean.Input("audio")],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str, audio: bool) -> io.NodeOutput:
        load = _host("audio_vae").load_audio_vae if audio else _host("video_vae").load_video_vae
        return io.NodeOutput(load(_path("checkpoints", ckpt_name)))


class LTX2ProbeEncodeAudio(io.ComfyNode):
    """Audio through ``vae.encode`` without resampling, as some packs call it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeEncodeAudio",
            inputs=[io.Audio.Input("audio"), io.Vae.Input("vae")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, audio: Any, vae: Any) -> io.NodeOutput:
        return io.NodeOutput({"samples": vae.encode(audio["waveform"].movedim(1, -1)), "type": "audio"})


class LTX2ProbeAudioVAE(io.ComfyNode):
    """Report what nodes of other packs read of an audio VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeAudioVAE", inputs=[io.Vae.Input("vae")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, vae: Any) -> io.NodeOutput:
        network, read = vae.first_stage_model, {}
        read["front end"] = [vae.autoencoder.sampling_rate, vae.autoencoder.mel_hop_length]
        read["rates"] = [vae.audio_sample_rate, vae.audio_sample_rate_output, network.output_sample_rate]
        read["latents"] = [network.latent_frequency_bins, network.latent_channels, vae.latent_channels]
        read["time"] = [network.sample_rate, network.mel_hop_length, network.latents_per_second]
        read["frames"] = [network.num_of_latents_from_frames(frames, 25) for frames in (9, 25, 121)]
        return io.NodeOutput(ui={"report": [json.dumps(read)]})


class LTX2ProbeLatentCount(io.ComfyNode):
    """Report how many audio latents an audio VAE counts for some frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLatentCount",
            inputs=[io.Vae.Input("vae"), io.Int.Input("frames"), io.Float.Input("fps")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, vae: Any, frames: int, fps: float) -> io.NodeOutput:
        count = vae.first_stage_model.num_of_latents_from_frames(frames, fps)
        return io.NodeOutput(ui={"report": [json.dumps(count)]})


class LTX2ProbeLoadClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLoadClip",
            inputs=[io.String.Input("text_encoder"), io.String.Input("ckpt_name")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, text_encoder: str, ckpt_name: str) -> io.NodeOutput:
        path = _host("folders").model_path(f"text_encoders/{text_encoder}")
        return io.NodeOutput(_host("clip").load_clip(path, _path("checkpoints", ckpt_name)))


class LTX2ProbeLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLora",
            inputs=[io.Model.Input("model"), io.String.Input("name"), io.Float.Input("strength")],
            outputs=[io.Model.Output(), io.String.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str, strength: float) -> io.NodeOutput:
        done = _host("lora").apply_lora(model, _path("loras", name), strength)
        return io.NodeOutput(done.model, done.report)


class LTX2ProbeLoadUpscaler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLoadUpscaler",
            inputs=[io.String.Input("model_name")],
            outputs=[io.LatentUpscaleModel.Output()],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(_host("upscaler").load_upscaler(_path("latent_upscale_models", model_name)))


class LTX2ProbeUpscalers(io.ComfyNode):
    """Report of two upscalers whether the host manages them and what they compute in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeUpscalers",
            inputs=[io.LatentUpscaleModel.Input("first"), io.LatentUpscaleModel.Input("second")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, first: Any, second: Any) -> io.NodeOutput:
        kinds = [
            [hasattr(one, "load_device"), str(one.model_dtype()) if hasattr(one, "model_dtype") else ""]
            for one in (first, second)
        ]
        return io.NodeOutput(ui={"report": [json.dumps({"kinds": kinds})]})


def _host(module: str) -> Any:
    """A module of the pack's host layer, under the name that the host imported the pack as."""
    pack = next(name for name in sys.modules if name.endswith("comfyui-ltx2"))
    return importlib.import_module(f"{pack}.nodes.host.{module}")


def _path(category: str, name: str) -> str:
    return folder_paths.get_full_path_or_raise(category, name)
