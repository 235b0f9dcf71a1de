"""ComfyUI core's LTX-2 network with the tensors of ours, called as core's guider calls it: a peer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx2_core.conditioning.patchify import unpatchify_audio, unpatchify_video
from ltx2_core.config import TransformerConfig
from ltx2_core.transformer import Modality, Transformer

Streams = list[Tensor]


def build_core(folder: Path, ours: Transformer, *, on_cpu: bool = True) -> torch.nn.Module:
    """Core's network from a checkout of ComfyUI, with the tensors of ``ours`` where they are.

    ``on_cpu`` tells ComfyUI that there is no GPU. Raises ValueError if the tensors do not fit.
    """
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu = on_cpu
    import comfy.ops
    from comfy.ldm.lightricks.av_model import LTXAVModel

    c = ours.config
    dtype = next(ours.parameters()).dtype
    model = LTXAVModel(**_arguments(c), dtype=dtype, operations=comfy.ops.disable_weight_init)
    missing, unexpected = model.load_state_dict(ours.state_dict(), strict=False, assign=True)
    if unexpected or not all("connector" in name for name in missing):
        raise ValueError(
            f"core's network has other tensors: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return model.requires_grad_(False).eval()


def _arguments(c: TransformerConfig) -> dict[str, Any]:
    return {
        "in_channels": c.in_channels,
        "audio_in_channels": c.audio_in_channels,
        "cross_attention_dim": c.dim,
        "audio_cross_attention_dim": c.audio_dim,
        "caption_channels": c.caption_channels,
        "num_layers": c.num_layers,
        "num_attention_heads": c.heads,
        "attention_head_dim": c.head_dim,
        "audio_num_attention_heads": c.heads,
        "audio_attention_head_dim": c.audio_head_dim,
        "apply_gated_attention": c.gated_attention,
        "cross_attention_adaln": c.cross_attention_adaln,
        "caption_proj_before_connector": not c.caption_projection,
        "caption_projection_first_linear": False,
        "rope_type": c.rope.rope_type,
        "frequencies_precision": c.rope.precision,
        "av_ca_timestep_scale_multiplier": c.cross_timestep_scale,
        "causal_temporal_positioning": True,
        "use_middle_indices_grid": True,
    }


def core_forward(
    model: torch.nn.Module, video: Modality, audio: Modality, grid: tuple[int, int, int], fps: float
) -> Callable[[], Streams]:
    """A call of core's network with the inputs of ours; ``grid`` are latent frames, rows and columns."""
    latents = [unpatchify_video(video.tokens, *grid), unpatchify_audio(audio.tokens)]
    context, sigma = torch.cat((video.context, audio.context), dim=-1), float(video.sigma[0])
    return lambda: core_velocities(model, latents, [context], sigma, fps)[0]


def core_velocities(
    model: torch.nn.Module, latents: Streams, contexts: list[Tensor], sigma: float, fps: float
) -> list[Streams]:
    """Velocities of both streams for each context (1, S, K), from one batched call of core's network."""
    many = len(contexts)
    level = torch.full((many,), sigma, device=latents[0].device)
    found = model(
        [latent.repeat(many, *[1] * (latent.ndim - 1)) for latent in latents],
        (level, level),
        torch.cat(contexts),
        attention_mask=None,
        frame_rate=fps,
        transformer_options={},
    )
    return [[stream[i : i + 1] for stream in found] for i in range(many)]
