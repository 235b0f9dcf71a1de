"""The ways in which packs change a MODEL of LTX-2, each with a visible effect."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import comfy.ldm.lightricks.av_model as av_model
import comfy.ldm.lightricks.model as lightricks
import comfy.ldm.modules.attention as attention
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from comfy_api.torch_helpers import set_torch_compile_wrapper

Way = Callable[[Any, str], None]
BLOCKS = "diffusion_model.transformer_blocks"


class LTX2ProbeWayIn(io.ComfyNode):
    """A clone of MODEL, changed in one of the ``WAYS`` or by ``forward NAME`` of a part of the blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeWayIn",
            inputs=[io.Model.Input("model"), io.String.Input("way")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, way: str) -> io.NodeOutput:
        clone = model.clone()
        name, _, part = way.partition(" ")
        WAYS[name](clone, part)
        return io.NodeOutput(clone)


class LTX2ProbeConditioning(io.ComfyNode):
    """Set a key of CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeConditioning",
            inputs=[io.Conditioning.Input("conditioning"), io.String.Input("key")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any, key: str) -> io.NodeOutput:
        return io.NodeOutput([[text, {**more, key: torch.ones(1, 4, 4)}] for text, more in conditioning])


def override(model: Any, _part: str) -> None:
    def half(function: Any, *args: Any, **more: Any) -> Any:
        return 0.5 * function(*args, **more)

    model.model_options["transformer_options"]["optimized_attention_override"] = half


def hosts_setter(model: Any, _part: str) -> None:
    """Since ComfyUI 0.32, with a function that takes its tensors in containers."""

    def half(q: Any, k: Any, v: Any, *args: Any, **more: Any) -> Any:
        return 0.5 * attention.attention_pytorch(q, k, v, *args, **more)

    half.container_function = half  # type: ignore[attr-defined]
    model.set_model_optimized_attention(half)


def swapped(model: Any, _part: str) -> None:
    """The function of the module for the time of a sampling, as packs and the host's options choose it."""

    def sample(executor: Any, *args: Any, **more: Any) -> Any:
        original = attention.optimized_attention
        attention.optimized_attention = lambda *a, **m: 0.5 * original(*a, **m)
        try:
            return executor(*args, **more)
        finally:
            attention.optimized_attention = original

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "probe", sample)


def block(change: Callable[[dict, dict], dict]) -> Way:
    """A replacement of the last block."""

    def way(model: Any, _part: str) -> None:
        last = len(model.model.diffusion_model.transformer_blocks) - 1
        model.set_model_patch_replace(change, "dit", "double_block", last)

    return way


def edited(args: dict, more: dict) -> dict:
    out = more["original_block"]({**args, "img": (args["img"][0] * 1.1, args["img"][1])})
    return {"img": (out["img"][0], out["img"][1] * 0.9)}


def other_arguments(args: dict, more: dict) -> dict:
    changed = {"v_context": args["v_context"] * 0.5, "a_context": args["a_context"] * 0.5}
    options = {**args["transformer_options"], "a2v_cross_attn": False}
    return more["original_block"]({**args, **changed, "transformer_options": options})


def counted(*values: int) -> Callable[[dict, dict], dict]:
    """Attention that returns its values at some of the calls of a block."""

    def change(args: dict, more: dict) -> dict:
        plain, masked = attention.optimized_attention, attention.optimized_attention_masked
        calls = iter(range(100))

        def skip(q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> Any:
            return v if next(calls) in values else plain(q, k, v, *rest, **named)

        attention.optimized_attention = attention.optimized_attention_masked = skip
        try:
            return more["original_block"](args)
        finally:
            attention.optimized_attention, attention.optimized_attention_masked = plain, masked

    return change


def passing(model: Any, _part: str) -> None:
    model.model_options["transformer_options"]["stg_self_attn_blocks"] = {1}


def forward(model: Any, part: str) -> None:
    """Half of the result of ``part`` in every block."""
    for number in range(len(model.model.diffusion_model.transformer_blocks)):
        key = f"{BLOCKS}.{number}.{part}.forward"
        original = model.get_model_object(key)
        model.add_object_patch(key, lambda *a, _original=original, **m: 0.5 * _original(*a, **m))


def relay(model: Any, part: str) -> None:
    """A text mask by token, and an override of attention for it."""
    for number in range(len(model.model.diffusion_model.transformer_blocks)):
        key = f"{BLOCKS}.{number}.{part}.forward"
        original = model.get_model_object(key)

        def masked(
            _self: Any,
            x: Any,
            context: Any = None,
            mask: Any = None,
            pe: Any = None,
            k_pe: Any = None,
            transformer_options: dict | None = None,
            _original: Any = original,
        ) -> Any:
            own = torch.linspace(0, -3, x.shape[1])[:, None] * torch.linspace(0, 1, context.shape[1])
            mask = own.to(x) if mask is None else mask + own.to(x)
            plain = {"optimized_attention_override": lambda f, *a, **m: attention.attention_pytorch(*a, **m)}
            options = {**(transformer_options or {}), **plain}
            return _original(x, context=context, mask=mask, pe=pe, k_pe=k_pe, transformer_options=options)

        model.add_object_patch(key, MethodType(masked, model.get_model_object(f"{BLOCKS}.{number}.{part}")))


def rewritten(model: Any, part: str) -> None:
    """All of a self-attention, by the layers of the module and the host's rotary tables."""

    def attend(self: Any, x: Any, context: Any = None, mask: Any = None, pe: Any = None, **more: Any) -> Any:
        q = lightricks.apply_rotary_emb(self.q_norm(self.to_q(x)), pe)
        k, v = lightricks.apply_rotary_emb(self.k_norm(self.to_k(x)), pe), self.to_v(x)
        options = {"attn_precision": self.attn_precision, "transformer_options": more["transformer_options"]}
        if mask is None:
            out = attention.optimized_attention(q, k, v, self.heads, **options)
        elif isinstance(mask, getattr(lightricks, "GuideAttentionMask", ())):
            out = lightricks._attention_with_guide_mask(q, k, v, self.heads, mask, **options)
        else:
            out = attention.optimized_attention_masked(q, k, v, self.heads, mask, **options)
        if self.to_gate_logits is not None:
            by_head = out.view(*out.shape[:2], self.heads, self.dim_head)
            out = (by_head * (2 * torch.sigmoid(self.to_gate_logits(x))).unsqueeze(-1)).view(out.shape)
        return 1.5 * self.to_out(out)

    for number, one in enumerate(model.model.diffusion_model.transformer_blocks):
        model.add_object_patch(f"{BLOCKS}.{number}.{part}.forward", MethodType(attend, getattr(one, part)))


def whole_block(model: Any, _part: str) -> None:
    """All of a block by its tables and attentions, without attention between the streams."""

    def run(self: Any, x: Any, **args: Any) -> Any:
        options, streams = args["transformer_options"], []
        for tokens, letter, prefix in zip(x, "va", ("", "audio_"), strict=True):
            table, time = getattr(self, f"{prefix}scale_shift_table"), args[f"{letter}_timestep"]
            values = self.get_ada_values(table, len(tokens), time, slice(0, 6))
            hidden = torch.nn.functional.rms_norm(tokens, tokens.shape[-1:], eps=1e-6)
            mask = {} if prefix else {"mask": args["self_attention_mask"]}
            update = getattr(self, f"{prefix}attn1")(
                hidden * (1 + values[1]) + values[0],
                pe=args[f"{letter}_pe"],
                transformer_options=options,
                **mask,
            )
            tokens = tokens + 0.7 * update * values[2]
            tokens = tokens + self._apply_text_cross_attention(
                tokens,
                args[f"{letter}_context"],
                getattr(self, f"{prefix}attn2"),
                table,
                getattr(self, f"{prefix}prompt_scale_shift_table", None),
                time,
                args[f"{letter}_prompt_timestep"],
                args["attention_mask"],
                options,
            )
            hidden = torch.nn.functional.rms_norm(tokens, tokens.shape[-1:], eps=1e-6)
            update = getattr(self, f"{prefix}ff")(hidden * (1 + values[4]) + values[3])
            streams.append(tokens + update * values[5])
        return tuple(streams)

    for number, one in enumerate(model.model.diffusion_model.transformer_blocks):
        model.add_object_patch(f"{BLOCKS}.{number}.forward", MethodType(run, one))


def network_wrapper(model: Any, _part: str) -> None:
    def run(executor: Any, x: Any, timestep: Any, context: Any, *args: Any, **more: Any) -> Any:
        return executor(x, timestep, context * 0.5, *args, **more)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe", run)


def separated(model: Any, _part: str) -> None:
    """The latents of a call taken apart and put together by the network's own methods."""

    def run(apply_model: Any, args: Any) -> Any:
        network = model.model.diffusion_model
        assert type(network).__name__ == "LTXAVModel"
        assert isinstance(network.caption_projection_first_linear, bool)
        assert network.audio_caption_projection is not None
        video, audio = network.separate_audio_and_video_latents([args["input"], 0.5 * args["input"]], None)
        assert network.recombine_audio_and_video_latents(video, audio)[1] is audio
        return apply_model(args["input"] + audio * 0.1, args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(run)


def hosts_class(model: Any, _part: str) -> None:
    """A method of the host's own network, for every model until the end of the sampling."""
    kind = av_model.LTXAVModel
    original = kind._process_output
    kind._process_output = lambda *args, **more: original(*args, **more)

    def sample(executor: Any, *args: Any, **more: Any) -> Any:
        try:
            return executor(*args, **more)
        finally:
            kind._process_output = original

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "probe", sample)


def attribute(model: Any, part: str) -> None:
    """An attribute of the network that only core's has, or calls in another way."""
    model.add_object_patch(f"diffusion_model.{part}", lambda *args, **more: None)


def compiled(model: Any, part: str) -> None:
    """Blocks or the whole network through Dynamo, whose graphs run as they are."""
    blocks = [f"{BLOCKS}.{number}" for number in range(len(model.model.diffusion_model.transformer_blocks))]
    keys = blocks if part == "blocks" else ["diffusion_model"]
    set_torch_compile_wrapper(model, backend="eager", keys=keys)


WAYS: dict[str, Way] = {
    "override": override,
    "setter": hosts_setter,
    "swapped": swapped,
    "block_skipped": block(lambda args, more: {"img": args["img"]}),
    "block_edited": block(edited),
    "block_other_arguments": block(other_arguments),
    "block_video_values": block(counted(0)),
    "block_audio_values": block(counted(2)),
    "block_all_values": block(counted(0, 2)),
    "block_untouched": block(lambda args, more: more["original_block"](args)),
    "passing": passing,
    "forward": forward,
    "relay": relay,
    "rewritten": rewritten,
    "whole_block": whole_block,
    "network_wrapper": network_wrapper,
    "separated": separated,
    "hosts_class": hosts_class,
    "attribute": attribute,
    "compiled": compiled,
}
