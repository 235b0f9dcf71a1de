"""Text through the host's own encoder, with the weights of one of ours."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


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
        model = _core_model(clip)
        ((ids,),) = clip.tokenize(text).values()
        out, _, extra = model.encode_token_weights({"gemma3_12b": [[(0, 1.0)] * padding + ids]})
        return io.NodeOutput([[out, extra]])


class LTX2ProbeGenerate(io.ComfyNode):
    """Report of the tokens that the host's own Gemma and ours write after a request."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeGenerate",
            inputs=[io.Clip.Input("clip"), io.String.Input("text"), io.Boolean.Input("sample")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, clip: Any, text: str, sample: bool) -> io.NodeOutput:
        options = {"do_sample": sample, "max_length": 12, "temperature": 0.9, "top_k": 40, "top_p": 0.95}
        options |= {"min_p": 0.01, "repetition_penalty": 1.1, "presence_penalty": 0.2, "seed": 3}
        tokens = clip.tokenize(text, skip_template=False, min_length=1)
        ours = clip.generate(tokens, **options)
        core = _core_model(clip).generate({"gemma3_12b": next(iter(tokens.values()))}, **options)
        return io.NodeOutput(
            ui={"report": [json.dumps({"ours": ours, "core": core, "text": clip.decode(ours)})]}
        )


class LTX2ProbeTokens(io.ComfyNode):
    """Report of the tokens of a prompt, and of its parts as packs count them that relay several prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeTokens",
            inputs=[io.Clip.Input("clip"), io.String.Input("parts")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, clip: Any, parts: str) -> io.NodeOutput:
        inner = (getattr(clip.tokenizer, name) for name in dir(clip.tokenizer) if not name.startswith("_"))
        raw = next(one.tokenizer for one in inner if hasattr(one, "tokenizer"))
        built, ends = "", []
        for part in parts.split("|"):
            built += part
            ends.append(len(raw(built)["input_ids"]))
        ((row,),) = clip.tokenize(built).values()
        same = raw(built)["input_ids"] == [token for token, _ in row]
        return io.NodeOutput(ui={"report": [json.dumps({"ends": ends, "same": same, "eos": raw.add_eos})]})


def _core_model(clip: Any) -> Any:
    from comfy.text_encoders import lt

    # With its LoRAs in the weights.
    clip.load_model()
    ours = clip.cond_stage_model
    config, extractor = ours.gemma.model.config, ours.extractor
    sizes = {name: getattr(config, name) for name in SIZES}
    kind = "dual_linear" if extractor.per_token_norm else "single_linear"
    model = lt.ltxav_te(dtype_llama=torch.float32, text_projection_type=kind)(
        device="cpu", dtype=torch.float32, model_options={"_model_config": sizes}
    )
    flat = config.hidden_size * (config.num_hidden_layers + 1)
    operations = model.gemma3_12b.operations
    if kind == "dual_linear":
        widths = (extractor.video_aggregate_embed.out_features, extractor.audio_aggregate_embed.out_features)
        model.text_embedding_projection = lt.DualLinearProjection(flat, *widths, operations=operations)
        weights = extractor.state_dict()
    else:
        model.text_embedding_projection = operations.Linear(flat, config.hidden_size, bias=False)
        weights = {"weight": extractor.aggregate_embed.weight}
    model.text_embedding_projection.load_state_dict(weights)
    state = {f"model.{name}": tensor for name, tensor in ours.gemma.model.state_dict().items()}
    missing, _ = model.gemma3_12b.load_sd(state)
    assert not any(name.startswith("model.") for name in missing), missing[:3]
    model.execution_device = None
    model.set_clip_options({"execution_device": torch.device("cpu")})
    return model


class LTX2ProbeTextStates(io.ComfyNode):
    """Random text states with an attention mask, as the host's T5 returns them; its own has one size only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeTextStates",
            inputs=[io.Int.Input("seed"), io.Int.Input("valid"), io.Int.Input("width")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed: int, valid: int, width: int) -> io.NodeOutput:
        return io.NodeOutput(_states(seed, valid, width))


class LTX2ProbeStatesClip(io.ComfyNode):
    """A CLIP that encodes every text to random states, that of ``negative`` to others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeStatesClip",
            inputs=[io.String.Input("negative"), io.Int.Input("width")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, negative: str, width: int) -> io.NodeOutput:
        return io.NodeOutput(_StatesClip(negative, width))


class _StatesClip:
    patcher = None

    def __init__(self, negative: str, width: int) -> None:
        self.negative, self.width = negative, width

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        seed, valid = (2, 4) if text == self.negative else (1, 9)
        return _states(seed, valid, self.width)


def _states(seed: int, valid: int, width: int) -> list[Any]:
    states = torch.randn(1, 12, width, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(12)[None] < valid).long()
    return [[states, {"attention_mask": mask}]]
