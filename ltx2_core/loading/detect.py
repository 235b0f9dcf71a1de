"""Detects the components of a file from its tensor names; file names are never used.

All public layouts (single file, split files with or without prefix) use the official tensor names, those of
the LTX-2 repository, and differ only in the prefix before them. So each component is described by three
things: an anchor, which is a tensor that it always has, the possible prefixes, and the first parts of its
tensors' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Component(Enum):
    """A part of the model that can be loaded by itself, such as the transformer or the vocoder."""

    TRANSFORMER = "transformer"
    TEXT_CONNECTORS = "text connectors"
    TEXT_PROJECTION = "text projection"
    VIDEO_ENCODER = "video encoder"
    VIDEO_DECODER = "video decoder"
    AUDIO_ENCODER = "audio encoder"
    AUDIO_DECODER = "audio decoder"
    VOCODER = "vocoder"
    UPSAMPLER = "latent upsampler"
    DURATION_HEAD = "duration head"
    LORA = "LoRA"
    TEXT_ENCODER = "text encoder"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one component is recognised in a file by tensor names, and which tensors belong to it.

    The component is present if one of ``anchors`` follows one of ``prefixes``; its tensors are those whose
    names begin with that prefix and one of ``roots``. Without ``roots`` its tensors are all with that prefix
    that belong to no earlier layout.
    """

    component: Component
    anchors: tuple[str, ...]
    """The component is present if any of these tensors follows a prefix."""
    also: tuple[str, ...] = ()
    """Tensors that must follow the same prefix as well, all of them."""
    prefixes: tuple[str, ...]
    """Prefixes to try, in this order; "" stands for names without prefix."""
    roots: tuple[str, ...] = ()
    """First parts of the component's names; empty means all with the prefix that no earlier layout claims."""
    restored: str = ""
    """Part of the official name that a repackaged layout dropped; it is put before the rest of the name."""
    usual_file: str = ""
    """Where the component is normally found, for error messages."""


DIFFUSION_MARK = "decoder.conv_in_x_t.weight"
"""A tensor that only the diffusion video decoder has."""

_DIT = ("model.diffusion_model.", "diffusion_model.", "model.", "transformer.", "")
_VIDEO = ("vae.", "")
_AUDIO = ("audio_vae.", "autoencoder.", "")
_STATISTICS = "per_channel_statistics."
_KINDS = ("video_modality_emb", "audio_modality_emb")
_SINGLE = "the main checkpoint (ltx-2-19b-… or ltx-2.3-22b-…, folder checkpoints)"

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        component=Component.TEXT_CONNECTORS,
        anchors=(
            "video_embeddings_connector.learnable_registers",
            "audio_embeddings_connector.learnable_registers",
        ),
        prefixes=_DIT,
        roots=("video_embeddings_connector.", "audio_embeddings_connector."),
        usual_file=f"{_SINGLE}, in a transformer file of 2.3 (diffusion_models), or for 2.0 in "
        "ltx-2-19b-embeddings_connector_dev_bf16 or …_distill_bf16 (text_encoders)",
    ),
    Layout(
        component=Component.TEXT_PROJECTION,
        anchors=("aggregate_embed.weight", "video_aggregate_embed.weight", "audio_aggregate_embed.weight"),
        prefixes=("text_embedding_projection.", "model.text_embedding_projection.", ""),
        roots=("aggregate_embed.", "video_aggregate_embed.", "audio_aggregate_embed."),
        usual_file=f"{_SINGLE}, in ltx-2.3_text_projection_bf16, or for 2.5 in "
        "gemma4-12b-with-proj-ltx-2.5-bf16 (text_encoders)",
    ),
    Layout(
        component=Component.TEXT_PROJECTION,
        anchors=("weight",),
        prefixes=("text_embedding_projection.",),
        roots=("weight",),
        restored="aggregate_embed.",
    ),
    Layout(
        component=Component.VIDEO_ENCODER,
        anchors=("encoder.down_blocks.0.res_blocks.0.conv1.conv.weight",),
        prefixes=_VIDEO,
        roots=("encoder.", _STATISTICS),
        usual_file=f"{_SINGLE} or in a video VAE file: LTX2_video_vae_bf16, for 2.5 "
        "ltx-2.5-video-vae-bf16 or ltx-2.5-video-vae-conv-bf16 (vae)",
    ),
    Layout(
        component=Component.VIDEO_DECODER,
        anchors=("decoder.up_blocks.0.res_blocks.0.conv1.conv.weight",),
        prefixes=_VIDEO,
        roots=("decoder.", _STATISTICS),
        usual_file=f"{_SINGLE} or in a video VAE file: LTX2_video_vae_bf16, for 2.5 "
        "ltx-2.5-video-vae-bf16 or ltx-2.5-video-vae-conv-bf16 (vae)",
    ),
    Layout(
        component=Component.VIDEO_DECODER,
        anchors=(DIFFUSION_MARK,),
        prefixes=_VIDEO,
        roots=("decoder.", _STATISTICS),
    ),
    Layout(
        component=Component.AUDIO_ENCODER,
        anchors=("encoder.mid.block_1.conv1.conv.weight",),
        prefixes=_AUDIO,
        roots=("encoder.", _STATISTICS),
        usual_file=f"{_SINGLE} or in an audio VAE file: LTX2_audio_vae_bf16, for 2.5 "
        "ltx-2.5-audio-vae-bf16 (vae)",
    ),
    Layout(
        component=Component.AUDIO_DECODER,
        anchors=("decoder.mid.block_1.conv1.conv.weight",),
        prefixes=_AUDIO,
        roots=("decoder.", _STATISTICS),
        usual_file=f"{_SINGLE} or in an audio VAE file: LTX2_audio_vae_bf16, for 2.5 "
        "ltx-2.5-audio-vae-bf16 (vae)",
    ),
    # A 2.3 vocoder contains a generator that is itself named "vocoder." Its layout must come before the plain
    # one, and the prefix is removed only once.
    Layout(
        component=Component.VOCODER,
        anchors=("bwe_generator.conv_pre.weight",),
        prefixes=("vocoder.", ""),
        roots=("vocoder.", "bwe_generator.", "mel_stft."),
        usual_file=f"{_SINGLE}, in an audio VAE file: LTX2_audio_vae_bf16, for 2.5 "
        "ltx-2.5-audio-vae-bf16 (vae), or in a vocoder file",
    ),
    Layout(
        component=Component.VOCODER,
        anchors=("conv_pre.weight",),
        prefixes=("vocoder.", ""),
        roots=("conv_pre.", "conv_post.", "ups.", "resblocks."),
        usual_file=f"{_SINGLE}, in an audio VAE file: LTX2_audio_vae_bf16, for 2.5 "
        "ltx-2.5-audio-vae-bf16 (vae), or in a vocoder file",
    ),
    Layout(
        component=Component.UPSAMPLER,
        anchors=("post_upsample_res_blocks.0.conv2.bias",),
        prefixes=("latent_upsampler.", ""),
        usual_file="an upscaler file: ltx-2-spatial-upscaler-x2-1.0, "
        "ltx-2.3-spatial-upscaler-x2-1.1, ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0 "
        "(latent_upscale_models)",
    ),
    Layout(
        component=Component.DURATION_HEAD,
        anchors=("attention_pooler.query_tokens",),
        prefixes=("duration_head.", "model.diffusion_model.duration_head.", ""),
        roots=("attention_pooler.", "mlp_", "video_input_proj.", "audio_input_proj.", *_KINDS),
        usual_file="ltx-2.5-duration-head-bf16 (model_patches)",
    ),
    Layout(
        component=Component.TRANSFORMER,
        anchors=("audio_adaln_single.linear.weight",),
        prefixes=_DIT,
        usual_file=f"{_SINGLE} or in a transformer file (diffusion_models)",
    ),
    # LTX-Video. Other networks of the PixArt family have either tensor, and none has both.
    Layout(
        component=Component.TRANSFORMER,
        anchors=("patchify_proj.weight",),
        also=("caption_projection.linear_1.weight",),
        prefixes=_DIT,
    ),
)

# Gemma has a norm after its feed-forward, which Llama and Qwen do not have.
_TEXT_ENCODER_ANCHORS = (
    "model.layers.0.post_feedforward_layernorm.weight",
    "language_model.model.layers.0.post_feedforward_layernorm.weight",
    "model.language_model.layers.0.post_feedforward_layernorm.weight",
    # Gemma in a GGUF file of llama.cpp.
    "blk.0.post_ffw_norm.weight",
    # T5 v1.1, whose feed-forward is gated, for LTX-Video.
    "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
)
_LORA_MARKS = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up."),
    *(".lokr_w", ".hada_w"),
)

OFFICIAL_PREFIXES: Mapping[Component, str] = {
    Component.TRANSFORMER: "model.diffusion_model.",
    Component.TEXT_CONNECTORS: "model.diffusion_model.",
    Component.TEXT_PROJECTION: "text_embedding_projection.",
    Component.VIDEO_ENCODER: "vae.",
    Component.VIDEO_DECODER: "vae.",
    Component.AUDIO_ENCODER: "audio_vae.",
    Component.AUDIO_DECODER: "audio_vae.",
    Component.VOCODER: "vocoder.",
    Component.UPSAMPLER: "",
    Component.DURATION_HEAD: "duration_head.",
}
"""Prefix of each component's tensor names in released single files."""

Names = Mapping[str, str]
"""Official name of a tensor, without prefix -> its name in the file."""


def find_components(names: Iterable[str]) -> dict[Component, Names]:
    """Group the tensor names of a file: component -> {official name without prefix: name in the file}.

    A tensor may belong to two components, as the latent statistics belong to both halves of a VAE. The
    official names of a LoRA's tensors are those in its file. Tensors that no network reads are left out.
    """
    present = frozenset(names)
    # LoRAs come first, because their module names contain the anchors of the transformer.
    if any(mark in name for name in present for mark in _LORA_MARKS):
        return {Component.LORA: {name: name for name in present}}
    found: dict[Component, Names] = {}
    claimed: set[str] = set()
    for layout in LAYOUTS:
        # The first layout of a component that matches counts; others are of other generations or repackaged.
        prefix = _prefix_of(layout, present)
        if prefix is None or layout.component in found:
            continue
        own = {name[len(prefix) :]: name for name in present if name.startswith(prefix)}
        # Tensors that no network uses would otherwise count as unexpected.
        own = {name: full for name, full in own.items() if not _is_unused(name)}
        # A layout without roots is the transformer's, whose prefix the connectors share.
        if layout.roots:
            own = {name: full for name, full in own.items() if name.startswith(layout.roots)}
        else:
            # Connectors come before the transformer in the table, which makes their tensors claimed here.
            own = {name: full for name, full in own.items() if full not in claimed}
        found[layout.component] = {layout.restored + name: full for name, full in own.items()}
        claimed.update(own.values())
    # A file for ComfyUI may hold Gemma next to the projection, which was claimed above.
    if any(anchor in present for anchor in _TEXT_ENCODER_ANCHORS):
        found[Component.TEXT_ENCODER] = {name: name for name in present if name not in claimed}
    return found


def usual_file(component: Component) -> str:
    """A text for error messages that says in which file a component is usually found."""
    if component is Component.TEXT_ENCODER:
        return "a Gemma folder or file, or for LTX-Video a T5 (text_encoders)"
    return next((row.usual_file for row in LAYOUTS if row.component is component), "a LoRA file (loras)")


def describe_foreign(names: Iterable[str]) -> str:
    """Say which other model a file without any LTX-2 component seems to be, from its tensor names."""
    present = frozenset(names)

    def has(*ends: str) -> bool:
        return any(name.endswith(ends) for name in present)

    if not present:
        return "no tensors at all"
    if has("pos_embed.proj.bias") and has("adaln_single.linear.bias"):
        return "a PixArt transformer"
    if has("adaln_single.emb.timestep_embedder.linear_1.bias"):
        return "a transformer without audio (a video-only extract of LTX-2)"
    if has("input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"):
        return "a Stable Diffusion checkpoint"
    if has("double_blocks.0.img_attn.qkv.weight", "double_blocks.0.img_mod.lin.weight"):
        return "a Flux or Hunyuan transformer"
    if has("proj_in.weight") and has("audio_time_embed.linear.weight"):
        return "a transformer with diffusers names (use the diffusers folder with its config.json instead)"
    if has("text_model.encoder.layers.0.self_attn.q_proj.weight"):
        return "a CLIP text encoder"
    examples = ", ".join(sorted(present)[:3])
    return f"{len(present)} tensors such as {examples}"


def _prefix_of(layout: Layout, present: frozenset[str]) -> str | None:
    def matches(prefix: str) -> bool:
        found = any(prefix + anchor in present for anchor in layout.anchors)
        return found and all(prefix + name in present for name in layout.also)

    return next(filter(matches, layout.prefixes), None)


_UNUSED = (
    "per_channel_statistics.channel",
    "per_channel_statistics.mean-of-stds",
    "per_channel_statistics.mean-of-stds_over_std-of-means",
    "scaled_fp8",
    "decoder.type_emb",
)
"""Official names of optional tensors that no network uses; they belong to no component."""

_PREVIEW_HEADS = ("coarse_", "decoder.coarse_")
"""How the names of preview heads in some files of the diffusion VAE begin; no network uses them."""


def _is_unused(name: str) -> bool:
    return name in _UNUSED or name.startswith(_PREVIEW_HEADS)
