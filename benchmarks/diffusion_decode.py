"""Time of the diffusion video decoder against diffusers on the CPU, and its memory at released sizes.

    python benchmarks/diffusion_decode.py                 # processor time, interleaved in one process
    python benchmarks/diffusion_decode.py --trace 768 512 16 2.0

The peer is LTX2VideoDiffusionDecoderModel of diffusers, with the same random weights of the released
structure at small width, decoding the same latent whole; its attention (FlexAttention) is run as diffusers
runs it. ``--trace WIDTH HEIGHT LATENTS GB`` counts bytes and floating-point operations of a decode in bfloat16
on the meta device, in the way that the plan chooses for GB of memory; it takes minutes, and allocates
nothing.
"""

from __future__ import annotations

import argparse
import re
import time
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ltx2_core.config import VideoVAEConfig, video_vae_config
from ltx2_core.memory import Trace, choose_decode
from ltx2_core.memory.diffusion_decoding import tile_piece_bytes
from ltx2_core.shapes import plan_clip
from ltx2_core.tiny.weights import random_weights
from ltx2_core.video_vae import DiffusionVideoDecoder, SpaceTiles, VolumeNoise
from ltx2_core.video_vae.diffusion import attention, blocks
from ltx2_core.video_vae.diffusion.windows import Axis, Runs

WIDTHS = [64, 32, 16, 16, 16]
DEPTHS = [2, 2, 2, 1, 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=float, nargs=4, metavar=("WIDTH", "HEIGHT", "LATENTS", "GB"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if options.trace:
            width, height, latents = map(int, options.trace[:3])
            traced(width, height, latents, int(options.trace[3] * 1e9))
        else:
            compared(options.repeats)


def traced(width: int, height: int, latents: int, room: int) -> None:
    """Print peak memory and work of the way to decode that the plan chooses for ``room`` bytes."""
    vae = video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE"}})
    clip = plan_clip(width, height, frames=8 * (latents - 1) + 1)
    choice = choose_decode(room, vae=vae, clip=clip, dtype=torch.bfloat16)
    decoder = DiffusionVideoDecoder(vae, dtype=torch.bfloat16, device="meta").eval()
    shape = 1, 128, latents, clip.latent_height, clip.latent_width
    latent = torch.empty(shape, dtype=torch.bfloat16, device="meta")

    def decode(limit: int, tiles: SpaceTiles | None) -> None:
        if tiles is None:
            pieces = decoder.decode_stream(latent, max_piece_bytes=limit)
        else:
            pieces = decoder.decode_tiles(latent, tiles, max_piece_bytes=limit)
        for frames in pieces:
            del frames

    with Work() as whole:
        decode(1 << 60, None)
    with Trace() as trace, Work() as work:
        decode(choice.piece_bytes, choice.tiles)
    tiles = choice.tiles
    how = "whole frames" if tiles is None else f"{tiles.columns} x {tiles.rows} tiles"
    at_once = choice.piece_bytes // tile_piece_bytes(vae, shape[3:], tiles, 2, 1)
    print("| clip | chosen for | way | traced GB | planned GB | work, TFLOP | over one whole decode |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {width}x{height}, {clip.frames} frames | {room / 1e9:.1f} GB | {how}, {at_once} frames at a time "
        f"| {trace.peak / 1e9:.3f} | {choice.memory.peak / 1e9:.3f} | {work.total / 1e12:.0f} "
        f"| {work.total / whole.total:.3f} |"
    )


class Work(TorchFunctionMode):
    """Counts the floating-point operations of linear layers and of attention inside the context.

    Of each attention only the largest group of tiles is called, since all others need no more memory: a trace
    of a released size takes minutes instead of hours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = self.attention = 0

    @property
    def total(self) -> int:
        return self.linear + self.attention

    def __enter__(self) -> Work:
        blocks.neighbourhood_attention = self._largest_group
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        blocks.neighbourhood_attention = attention.neighbourhood_attention

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is F.linear:
            self.linear += 2 * out.numel() * args[0].shape[-1]
        return out

    def _largest_group(
        self, q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis, Axis], masks: attention.Masks
    ) -> Tensor:
        out = torch.empty_like(q)
        groups = list(attention.groups_of(axes, k))
        width = q.shape[0] * q.shape[4] * q.shape[5]

        def size(runs: Runs) -> int:
            return prod(run.tiles * run.size * run.box for run in runs)

        self.attention += 4 * width * sum(map(size, groups))
        attention.attend(out, q, k, v, max(groups, key=size), masks)
        for runs in groups:
            masks.of((runs[0].geometry, runs[1].geometry, runs[2].geometry), q)
        return out


def small() -> VideoVAEConfig:
    decoder = {
        "in_channels": 16,
        "head_dim": 16,
        "stage_channels": WIDTHS,
        "stage_depths": DEPTHS,
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
        "t_emb_dim": 24,
    }
    return video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE", "decoder": decoder}})


def peer_of(ours: DiffusionVideoDecoder) -> Any:
    """The model of diffusers with the weights of ``ours``."""
    from diffusers.models.autoencoders.ltx2_diffusion_decoder import LTX2VideoDiffusionDecoderModel

    peer = LTX2VideoDiffusionDecoderModel(
        latent_channels=16,
        decoder_head_dim=16,
        decoder_stage_channels=tuple(WIDTHS),
        decoder_stage_depths=tuple(DEPTHS),
        decoder_upsample_channel_reductions=(2, 2, 1, 1),
        decoder_t_emb_dim=24,
    ).eval()
    state = {}
    for name, tensor in ours.decoder.state_dict().items():
        name = name.replace("attn.proj.", "attn.to_out.0.")
        name = name.replace("q_norm", "norm_q").replace("k_norm", "norm_k")
        name = re.sub(r"mlp\.([02])\.(?=weight|bias)", _embedder, name) if "t_embedder" in name else name
        if ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                state[name.replace(".qkv.", f".to_{part}.")] = rows
        else:
            state[name] = tensor
    peer.decoder.load_state_dict(state, strict=True)
    return peer


def _embedder(match: re.Match[str]) -> str:
    return f"timestep_embedder.linear_{1 + int(match[1]) // 2}."


def compared(repeats: int) -> None:
    ours = DiffusionVideoDecoder(small()).eval()
    ours.load_state_dict(random_weights(ours, 0))
    peer = peer_of(ours)
    latent = torch.randn(1, 16, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    raw = ours.per_channel_statistics.un_normalize(latent)
    times: dict[str, list[float]] = {"ours": [], "diffusers": []}
    results = {}
    for _ in range(repeats):
        for name in times:
            start = time.process_time()
            if name == "ours":
                results[name] = ours.decode(latent, noise=VolumeNoise(0))
            else:
                generator = torch.Generator().manual_seed(0)
                results[name] = peer.decode(raw, generator=generator, return_dict=False)[0]
            times[name].append(time.process_time() - start)
    difference = (results["ours"] - results["diffusers"]).abs().max()
    best = {name: min(seconds) for name, seconds in times.items()}
    for name, seconds in best.items():
        print(f"{name:<10} {seconds:8.2f} s  {seconds / best['diffusers']:.2f}")
    print(f"largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
