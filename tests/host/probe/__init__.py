"""Test-only nodes: the pack's host layer without its nodes, tensors to files, inputs from nothing."""

from __future__ import annotations

import copy
import importlib
import json
import sys
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
        save_file(
            {k: v.contiguous().clone() for k, v in found.items()},
            Path(folder_paths.get_output_directory()) / file,
        )
        return io.NodeOutput(ui={"dump_name": [name], "dump_file": [file]})


def _collect(found: dict[str, torch.Tensor], name: str, value: Any) -> None:
    if value is None:
        return
    if getattr(value, "is_nested", False):
        for stream, tensor in zip(("video", "audio"), value.unbind(), strict=False):
            found[f"{name}/{stream}"] = tensor
    else:
        found[name] = value


class LTX2ProbeLoadModel(io.ComfyNode):
    """MODEL of a checkpoint, through the pack's host layer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLoadModel", inputs=[io.String.Input("ckpt_name")], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(_host("model").load_model(_path("checkpoints", ckpt_name)))


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
        load = _host("vae").load_audio_vae if audio else _host("vae").load_video_vae
        return io.NodeOutput(load(_path("checkpoints", ckpt_name)))


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
        folder = _host("folders").text_encoder_path(text_encoder)
        return io.NodeOutput(_host("clip").load_clip(folder, _path("checkpoints", ckpt_name)))


class LTX2ProbeCoreText(io.ComfyNode):
    """The conditioning that the host's own text encoder makes of the weights of ``clip`` and its tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeCoreText",
            inputs=[io.Clip.Input("clip"), io.String.Input("text"), io.Int.Input("padding")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, padding: int) -> io.NodeOutput:
        from comfy.text_encoders import lt

        ours = clip.cond_stage_model
        config, extractor = ours.gemma.model.config, ours.extractor
        sizes = {
            name: getattr(config, name)
            for name in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
            )
        }
        kind = "dual_linear" if extractor.per_token_norm else "single_linear"
        model = lt.ltxav_te(dtype_llama=torch.float32, text_projection_type=kind)(
            device="cpu", dtype=torch.float32, model_options={"_model_config": sizes}
        )
        flat = config.hidden_size * (config.num_hidden_layers + 1)
        operations = model.gemma3_12b.operations
        if kind == "dual_linear":
            widths = (
                extractor.video_aggregate_embed.out_features,
                extractor.audio_aggregate_embed.out_features,
            )
            model.text_embedding_projection = lt.DualLinearProjection(flat, *widths, operations=operations)
            weights = extractor.state_dict()
        else:
            model.text_embedding_projection = operations.Linear(flat, config.hidden_size, bias=False)
            weights = {"weight": extractor.aggregate_embed.weight}
        model.text_embedding_projection.load_state_dict(weights)
        state = {f"model.{name}": tensor for name, tensor in ours.gemma.model.state_dict().items()}
        missing, _ = model.gemma3_12b.load_sd(state)
        assert not any(name.startswith("model.") for name in missing), missing[:3]
        ((ids,),) = clip.tokenize(text).values()
        model.execution_device = None
        model.set_clip_options({"execution_device": torch.device("cpu")})
        out, _, extra = model.encode_token_weights({"gemma3_12b": [[(0, 1.0)] * padding + ids]})
        return io.NodeOutput([[out, extra]])


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


def _host(module: str) -> Any:
    """A module of the pack's host layer, under the name that the host imported the pack as."""
    pack = next(name for name in sys.modules if name.endswith("comfyui-ltx2"))
    return importlib.import_module(f"{pack}.nodes.host.{module}")


def _path(category: str, name: str) -> str:
    return folder_paths.get_full_path_or_raise(category, name)


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
                io.Int.Input("samples", default=8000),
                io.Int.Input("sample_rate", default=16000),
                io.Int.Input("channels", default=2),
            ],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def execute(cls, samples: int, sample_rate: int, channels: int) -> io.NodeOutput:
        t = torch.arange(samples) / sample_rate
        voices = [0.3 * torch.sin(6.2832 * f * t) + 0.2 * torch.sin(6.2832 * 1.5 * f * t) for f in (220, 330)]
        return io.NodeOutput({"waveform": torch.stack(voices)[:channels][None], "sample_rate": sample_rate})


class LTX2ProbeFrameMask(io.ComfyNode):
    """Set a noise mask of one value per latent frame, for video or audio."""

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
        _load_partly(clone)
        return io.NodeOutput(clone)


def _load_partly(patcher: Any) -> None:
    """As the host does where a device has 64 KB of room; on a CPU it always loads all."""
    comfy.model_management.unload_all_models()

    class Partly(type(patcher)):  # type: ignore[misc]
        """A class, so that clones of the patcher do so too."""

        def load(self, device_to: Any = None, **options: Any) -> Any:
            return super().load(
                device_to, **{**options, "lowvram_model_memory": 64 * 1024, "full_load": False}
            )

    patcher.__class__ = Partly


class LTX2ProbePartialClip(io.ComfyNode):
    """The same of a CLIP."""

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
    """The same of a VAE."""

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


class LTX2ProbeRoom(io.ComfyNode):
    """How much room a VAE asks the host to make for a clip, in bytes."""

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


class LTX2ProbeTinyDecoder(io.ComfyNode):
    """Write a tiny decoder of random weights, with 0 channels a file that is none, into the host's folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeTinyDecoder",
            inputs=[io.Int.Input("channels"), io.String.Input("name")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, channels: int, name: str) -> io.NodeOutput:
        from comfy.taesd.taehv import TAEHV

        torch.manual_seed(0)
        state = TAEHV(channels).state_dict() if channels else {"nothing": torch.zeros(1)}
        folder = Path(folder_paths.get_folder_paths("vae_approx")[0])
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / name)
        return io.NodeOutput()


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LTX2ProbeDump,
            LTX2ProbeLoadModel,
            LTX2ProbeLoadVAE,
            LTX2ProbeLoadClip,
            LTX2ProbeCoreText,
            LTX2ProbeLora,
            LTX2ProbeLoadUpscaler,
            LTX2ProbeImage,
            LTX2ProbeAudio,
            LTX2ProbeFrameMask,
            LTX2ProbeModel,
            LTX2ProbePartialLoad,
            LTX2ProbePartialClip,
            LTX2ProbePartialVAE,
            LTX2ProbeTakeHalf,
            LTX2ProbeRoom,
            LTX2ProbeInterrupt,
            LTX2ProbeStreams,
            LTX2ProbeWrapped,
            LTX2ProbeCount,
            LTX2ProbeCounts,
            LTX2ProbeRopeTables,
            LTX2ProbeTinyDecoder,
        ]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
