"""Test-only nodes: write tensors to files, make conditionings without a text encoder, look inside a MODEL."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file


class LTX2ProbeDump(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeDump",
            inputs=[
                io.String.Input("name"),
                io.Latent.Input("latent", optional=True),
                io.Image.Input("image", optional=True),
                io.Audio.Input("audio", optional=True),
                io.Conditioning.Input("conditioning", optional=True),
                io.Sigmas.Input("sigmas", optional=True),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        name: str,
        latent: Any = None,
        image: Any = None,
        audio: Any = None,
        conditioning: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        found: dict[str, torch.Tensor] = {}
        if latent is not None:
            _collect(found, "latent", latent["samples"])
            _collect(found, "mask", latent.get("noise_mask"))
        if audio is not None:
            found["waveform"] = audio["waveform"]
            found["sample_rate"] = torch.tensor(audio["sample_rate"])
        if conditioning is not None:
            found["cond"] = conditioning[0][0]
            for key, value in conditioning[0][1].items():
                if isinstance(value, torch.Tensor):
                    found[f"cond/{key}"] = value
                elif isinstance(value, (bool, int, float)):
                    found[f"cond/{key}"] = torch.tensor(value)
        if image is not None:
            found["image"] = image
        if sigmas is not None:
            found["sigmas"] = sigmas
        file = f"{uuid.uuid4().hex}.safetensors"
        save_file({k: v.contiguous().clone() for k, v in found.items()}, Path(folder_paths.get_output_directory()) / file)
        return io.NodeOutput(ui={"dump_name": [name], "dump_file": [file]})


def _collect(found: dict[str, torch.Tensor], name: str, value: Any) -> None:
    if value is None:
        return
    if getattr(value, "is_nested", False):
        for stream, tensor in zip(("video", "audio"), value.unbind(), strict=False):
            found[f"{name}/{stream}"] = tensor
    else:
        found[name] = value


class LTX2ProbeFeatures(io.ComfyNode):
    """Random text features in front of the connectors, as the host's text encoder would give them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeFeatures",
            inputs=[io.Int.Input("seed"), io.Int.Input("tokens", default=17), io.Int.Input("width", default=64)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed: int, tokens: int, width: int) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(1, tokens, width, generator=generator)
        return io.NodeOutput([[features, {"pooled_output": None, "unprocessed_ltxav_embeds": True}]])


class LTX2ProbeImage(io.ComfyNode):
    """Smooth random frames in 0..1: what a VAE can be compared on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeImage",
            inputs=[
                io.Int.Input("seed"),
                io.Int.Input("frames", default=1),
                io.Int.Input("width", default=64),
                io.Int.Input("height", default=64),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, seed: int, frames: int, width: int, height: int) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, max(2, frames // 4), 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(frames, height, width), mode="trilinear")
        return io.NodeOutput(smooth[0].movedim(0, -1).contiguous())


class LTX2ProbeAudio(io.ComfyNode):
    """A chord in stereo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeAudio",
            inputs=[
                io.Float.Input("seconds", default=0.5),
                io.Int.Input("sample_rate", default=16000),
                io.Int.Input("channels", default=2),
            ],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def execute(cls, seconds: float, sample_rate: int, channels: int) -> io.NodeOutput:
        t = torch.arange(int(seconds * sample_rate)) / sample_rate
        voices = [0.3 * torch.sin(6.2832 * f * t) + 0.2 * torch.sin(6.2832 * 1.5 * f * t) for f in (220, 330)]
        return io.NodeOutput({"waveform": torch.stack(voices)[:channels][None], "sample_rate": sample_rate})


class LTX2ProbeBatchMask(io.ComfyNode):
    """Set a video noise mask of one value per latent frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeFrameMask",
            inputs=[io.Latent.Input("latent"), io.String.Input("values")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent: Any, values: str) -> io.NodeOutput:
        numbers = torch.tensor([float(v) for v in values.split(",")])
        shape = (1, 1, -1, 1, 1) if latent["samples"].ndim == 5 else (1, 1, -1, 1)
        mask = numbers.view(shape).expand(latent["samples"].shape[0], 1, *latent["samples"].shape[2:])
        return io.NodeOutput({**latent, "noise_mask": mask.contiguous()})


class LTX2ProbeModel(io.ComfyNode):
    """Report what the host sees of a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeModel",
            inputs=[io.Model.Input("model")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        network = model.model.diffusion_model
        second = model.cached_patcher_init[0](*model.cached_patcher_init[1])
        second = second[model.cached_patcher_init[2]] if len(model.cached_patcher_init) > 2 else second
        report = {
            "is_ltxav": isinstance(model.model, comfy.model_base.LTXAV),
            "keys": sorted(model.model.state_dict()),
            "patches": len(model.patches),
            "lora_metadata": model.get_attachment("lora_metadata"),
            "dtype": str(network.dtype),
            "host_layers": all(
                hasattr(m, "comfy_cast_weights") for m in network.modules() if isinstance(m, torch.nn.Linear)
            ),
            "factory_keys_equal": sorted(second.model.state_dict()) == sorted(model.model.state_dict()),
        }
        return io.NodeOutput(ui={"report": [json.dumps(report)]})


class LTX2ProbePartialLoad(io.ComfyNode):
    """Clone a MODEL that loads only a fraction of its weights and streams the rest layer by layer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbePartialLoad",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        whole = clone.load

        def load(device_to: Any = None, lowvram_model_memory: int = 0, **options: Any) -> Any:
            return whole(device_to, lowvram_model_memory=64 * 1024, **options)

        clone.load = load
        return io.NodeOutput(clone)


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LTX2ProbeDump,
            LTX2ProbeFeatures,
            LTX2ProbeImage,
            LTX2ProbeAudio,
            LTX2ProbeBatchMask,
            LTX2ProbeModel,
            LTX2ProbePartialLoad,
        ]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
