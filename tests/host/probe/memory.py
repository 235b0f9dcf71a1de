"""The host's memory manager: networks that it loads partly or takes back, and the room that it makes."""

from __future__ import annotations

import copy
import json
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy_api.latest import io


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
        _load_partly(clone)
        return io.NodeOutput(clone)


class LTX2ProbePartialClip(io.ComfyNode):
    """Clone a CLIP that is loaded so."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbePartialClip", inputs=[io.Clip.Input("clip")], outputs=[io.Clip.Output()]
        )

    @classmethod
    def execute(cls, clip: Any) -> io.NodeOutput:
        clone = clip.clone()
        # Prompts that were read before would be remembered.
        clone.recent = type(clone.recent)()
        _load_partly(clone.patcher)
        return io.NodeOutput(clone)


class LTX2ProbePartialVAE(io.ComfyNode):
    """Copy a VAE that is loaded so."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbePartialVAE", inputs=[io.Vae.Input("vae")], outputs=[io.Vae.Output()]
        )

    @classmethod
    def execute(cls, vae: Any) -> io.NodeOutput:
        other = copy.copy(vae)
        other.patcher = vae.patcher.clone()
        _load_partly(other.patcher)
        return io.NodeOutput(other)


class LTX2ProbeTakeHalf(io.ComfyNode):
    """Load a MODEL and let the host take half of it back, as it does for the next network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeTakeHalf",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        comfy.model_management.load_models_gpu([model])
        freed = model.partially_unload(model.offload_device, model.model_size() // 2)
        return io.NodeOutput(model, ui={"report": [json.dumps({"freed": freed})]})


class LTX2ProbeSize(io.ComfyNode):
    """Bytes of a MODEL as the host counts them when it is loaded: in all, and of weights in blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeSize", inputs=[io.Model.Input("model")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        comfy.model_management.load_models_gpu([model])
        layers = [m for m in model.model.modules() if hasattr(m, "in_features")]
        report = {
            "model": model.model_size(),
            "loaded": model.loaded_size(),
            "blocks": sum(m.weight.nbytes for m in layers if m.weight.dtype == torch.uint8),
            "decoding": model.model.memory_required([1, 128, 1, 1]),
        }
        return io.NodeOutput(ui={"report": [json.dumps(report)]})


class LTX2ProbeRoom(io.ComfyNode):
    """The memory that a VAE requests from the host for a clip, in bytes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeRoom",
            inputs=[io.Vae.Input("vae"), io.Int.Input("width"), io.Int.Input("height")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, vae: Any, width: int, height: int) -> io.NodeOutput:
        room = {
            "decode": vae.memory_used_decode((1, 128, 16, height // 32, width // 32), torch.bfloat16),
            "encode": vae.memory_used_encode((1, 3, 121, height, width), torch.bfloat16),
        }
        return io.NodeOutput(ui={"report": [json.dumps(room)]})


def _load_partly(patcher: Any) -> None:
    """As the host does where a device has 64 KB of room; on a CPU it always loads all."""
    comfy.model_management.unload_all_models()

    class Partly(type(patcher)):  # type: ignore[misc]
        """A class, so that clones of the patcher do so too."""

        def load(self, device_to: Any = None, **options: Any) -> Any:
            # Else the host takes layers that it has loaded whole before for layers without LoRAs.
            for module in self.model.modules():
                comfy.model_patcher.wipe_lowvram_weight(module)
            return super().load(
                device_to, **{**options, "lowvram_model_memory": 64 * 1024, "full_load": False}
            )

    patcher.__class__ = Partly
