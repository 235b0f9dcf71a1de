"""What hosts after 0.33 do with a LATENT and a VAE, where no node of an older host does the same."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io
from comfy_extras import nodes_lt

OPTIONAL = ("comfy_decode_estimate_is_reliable", "preferred_decode_tile", "decode_tiled", "encode_tiled")
"""Attributes of a network by which a VAE of these hosts skips the plain decoding or divides it itself."""


class LTX2ProbeLatentGuide(io.ComfyNode):
    """A latent appended as a guide, by the rules of *LTXVAddLatentGuide* after 0.33.

    Frames count in latent frames, negative ones lie before the clip. A guide with fewer rows and columns is
    spread to every n-th cell, and the ends of its positions grow by n - 1 cells.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLatentGuide",
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Vae.Input("vae"),
                io.Latent.Input("latent"),
                io.Latent.Input("guiding_latent"),
                io.Int.Input("latent_idx", default=0, min=-9999, max=9999),
                io.Float.Input("strength", default=1.0, max=10.0),
                io.Mask.Input("attention_mask", optional=True),
            ],
            outputs=[io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        vae: Any,
        latent: Any,
        guiding_latent: Any,
        latent_idx: int,
        strength: float,
        attention_mask: Any = None,
    ) -> io.NodeOutput:
        core = nodes_lt.LTXVAddGuide
        samples, guide = latent["samples"], guiding_latent["samples"]
        scale = samples.shape[4] // guide.shape[4]
        spread, holes = core.dilate_latent(guide, scale)
        frame = 8 * latent_idx - 7 if latent_idx > 0 else 8 * latent_idx
        positive, negative, samples, mask = core.append_keyframe(
            positive,
            negative,
            frame,
            samples,
            nodes_lt.get_noise_mask(latent),
            spread,
            strength,
            vae.downscale_index_formula,
            guide_mask=holes,
            latent_downscale_factor=scale,
        )
        tokens, shape = spread[0, 0].numel(), list(guide.shape[2:])
        ends = nodes_lt._append_guide_attention_entry(
            positive, negative, tokens, shape, strength=strength, attention_mask=attention_mask
        )
        return io.NodeOutput(*ends, {**latent, "samples": samples, "noise_mask": mask})


class LTX2ProbeLaterDecode(io.ComfyNode):
    """Report of how a VAE of these hosts would decode a LATENT, also after it ran out of memory.

    ``set`` are the optional attributes that the network has; ``bytes`` are the estimates for the whole latent
    and for the tiles that are tried in turn; ``whole`` and ``tiles`` are the shapes of the frames, ``apart``
    is the largest difference between them.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeLaterDecode",
            inputs=[io.Vae.Input("vae"), io.Latent.Input("latent")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, vae: Any, latent: Any) -> io.NodeOutput:
        network, samples = vae.first_stage_model, latent["samples"]
        whole = vae.decode(samples)
        shapes = [
            tuple(samples.shape),
            (*samples.shape[:2], 2, *samples.shape[3:]),
            (*samples.shape[:2], 2, 2, 2),
        ]
        tiles = vae.decode_tiled_3d(samples, tile_t=2, tile_x=2, tile_y=2, overlap=(1, 1, 1)).movedim(1, -1)
        found = {
            "set": [name for name in OPTIONAL if getattr(network, name, None)],
            "own tiling": bool(getattr(vae, "handles_tiling", False)),
            "formatted": getattr(vae, "format_encoded", None) is not None,
            "bytes": [vae.memory_used_decode(shape, torch.float32) for shape in shapes],
            "whole": list(whole.shape),
            "tiles": list(tiles.shape),
            "apart": (whole - tiles).abs().max().item(),
        }
        return io.NodeOutput(ui={"report": [json.dumps(found)]})
