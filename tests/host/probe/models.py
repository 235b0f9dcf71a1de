"""Properties of a MODEL, and what happens around and within the calls of its network."""

from __future__ import annotations

import json
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import torch
from comfy_api.latest import io


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
            "family": _family(model.model.model_config),
            "keys": sorted(model.model.state_dict()),
            "patches": len(model.patches),
            "quantised": sorted({getattr(m, "quant_format", None) or "" for m in network.modules()} - {""}),
            "lora_metadata": model.get_attachment("lora_metadata"),
            "dtype": str(network.dtype),
            "host_layers": all(
                hasattr(m, "comfy_cast_weights") for m in network.modules() if isinstance(m, torch.nn.Linear)
            ),
            "factory_keys_equal": sorted(second.model.state_dict()) == sorted(model.model.state_dict()),
        }
        return io.NodeOutput(ui={"report": [json.dumps(report)]})


def _family(config: Any) -> list[Any]:
    """What nodes of other packs read of a MODEL's description to find out which family it is of."""
    parent = isinstance(config, comfy.supported_models.LTXAV)
    return [parent, config.unet_config["image_model"], config.memory_usage_factor, config.sampling_settings]


class LTX2ProbeInterrupt(io.ComfyNode):
    """Press stop when the network is called; fail if it finishes all the same."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeInterrupt", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        def wrapper(apply_model: Any, args: Any) -> Any:
            comfy.model_management.interrupt_current_processing()
            apply_model(args["input"], args["timestep"], **args["c"])
            raise RuntimeError("the network ran to its end")

        clone = model.clone()
        clone.set_model_unet_function_wrapper(wrapper)
        return io.NodeOutput(clone)


class LTX2ProbeStreams(io.ComfyNode):
    """Set the host's switches that cut the two streams apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeStreams",
            inputs=[io.Model.Input("model"), io.String.Input("off")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, off: str) -> io.NodeOutput:
        clone = model.clone()
        clone.model_options["transformer_options"].update(dict.fromkeys(off.split(","), False))
        return io.NodeOutput(clone)


class LTX2ProbeWrapped(io.ComfyNode):
    """Wrap every call of the network, as other packs do, without changing it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeWrapped", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        def wrapper(apply_model: Any, args: Any) -> Any:
            return apply_model(args["input"], args["timestep"], **args["c"])

        clone = model.clone()
        clone.set_model_unet_function_wrapper(wrapper)
        return io.NodeOutput(clone)


class LTX2ProbeCount(io.ComfyNode):
    """Count the samples that each block computes, for LTX2ProbeCounts to tell."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeCount",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        clone = model.clone()
        blocks = clone.model.diffusion_model.transformer_blocks
        counts = [0] * len(blocks)

        def hook(number: int) -> Any:
            def count(block: Any, given: Any) -> None:
                counts[number] += len(given[0])

            return count

        hooks = [block.register_forward_pre_hook(hook(number)) for number, block in enumerate(blocks)]
        clone.set_attachments("probe_counts", (counts, hooks))
        return io.NodeOutput(clone)


class LTX2ProbeCounts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeCounts",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: Any) -> io.NodeOutput:
        counts, hooks = model.get_attachment("probe_counts")
        for hook in hooks:
            hook.remove()
        return io.NodeOutput(ui={"report": [json.dumps(counts)]})


class LTX2ProbeRopeTables(io.ComfyNode):
    """How many rotary tables were made before the last report and until now, and how many are held."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeRopeTables",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: Any) -> io.NodeOutput:
        network = model.model.diffusion_model
        memory = network.rope_memory
        before = getattr(network, "probe_tables", 0)
        network.probe_tables = memory.computed
        return io.NodeOutput(ui={"report": [json.dumps([before, memory.computed, memory.kept])]})
