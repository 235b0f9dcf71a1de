"""Time of the diffusion video decoder against diffusers on the CPU, and its memory at released sizes.

    python benchmarks/diffusion_decode.py                 # processor time, each peer interleaved with ours
    python benchmarks/diffusion_decode.py --trace 768 512 16 2.0 --trace 768 512 31 2.0

The peer is LTX2VideoDiffusionDecoderModel of diffusers, with the same random weights of the released
structure at small width, decoding the same latent whole. Its attention is ``na3d`` of comfy-kitchen, or
FlexAttention, as diffusers runs it. Each peer runs in a process of its own, with ours in turn, and is stopped
after ``--budget`` seconds of processor time, as FlexAttention is not for CPUs.

``--trace WIDTH HEIGHT LATENTS GB`` counts bytes and floating-point operations of a decode in bfloat16 on the
meta device, in the way that the plan chooses for GB of memory; it takes minutes, and allocates nothing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ltx2_core.config import video_vae_config
from ltx2_core.loading import diffusion_out
from ltx2_core.loading.diffusers_out import renamed
from ltx2_core.memory import Trace, choose_decode
from ltx2_core.memory.diffusion_decoding import tile_piece_bytes
from ltx2_core.shapes import plan_clip
from ltx2_core.tiny.weights import random_weights
from ltx2_core.video_vae import DiffusionVideoDecoder, SpaceTiles, VolumeNoise
from ltx2_core.video_vae.diffusion import attention, blocks
from ltx2_core.video_vae.diffusion.windows import Axis, Runs

WIDTHS = [64, 32, 16, 16, 16]
DEPTHS = [2, 2, 2, 1, 2]


PEERS = ("na3d", "FlexAttention")
"""What computes the attention of diffusers' decoder."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trace", type=float, nargs=4, metavar=("WIDTH", "HEIGHT", "LATENTS", "GB"), action="append"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, default=300, help="processor seconds for each peer")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if options.case:
            compared(*options.case, options.repeats)
        elif options.trace:
            print(
                "| clip | chosen for | way | traced GB | planned GB | work, TFLOP | over one whole decode |"
            )
            print("|---|---|---|---|---|---|---|", flush=True)
            for width, height, latents, room in options.trace:
                traced(int(width), int(height), int(latents), int(room * 1e9))
        else:
            print("| windows | decoder | processor s | ours over it, median of pairs | difference |")
            print("|---|---|---|---|---|", flush=True)
            for windows in ("small", "released"):
                for peer in PEERS:
                    within(options.budget, windows, peer, options.repeats)


def within(budget: int, windows: str, peer: str, repeats: int) -> None:
    """Print the rows of one peer, or that it takes more than ``budget`` seconds of processor time."""
    if (windows, peer) == ("released", "FlexAttention"):
        # Without a compiler it stores all scores.
        print(f"| {windows} | diffusers, {peer} | not run: 11 GB | - | - |", flush=True)
        return
    case = [sys.executable, __file__, "--case", windows, peer, "--repeats", str(repeats)]
    # Processor time, since on a shared machine the clock says little.
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({budget}, {budget})); "
    start = f"{limit}import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run([sys.executable, "-c", start, *case[1:]], check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        print(f"| {windows} | diffusers, {peer} | not finished in {budget} s | - | - |", flush=True)
    elif done.returncode:
        print(
            f"| {windows} | diffusers, {peer} | failed: exit status {done.returncode} | - | - |", flush=True
        )


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
    print(
        f"| {width}x{height}, {clip.frames} frames | {room / 1e9:.1f} GB | {how}, {at_once} frames at a time "
        f"| {trace.peak / 1e9:.3f} | {choice.memory.peak / 1e9:.3f} | {work.total / 1e12:.0f} "
        f"| {work.total / whole.total:.3f} |",
        flush=True,
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


def small(windows: str, latent_channels: int = 16) -> dict[str, Any]:
    """The configuration of a small decoder, with attention windows of the released size or small ones."""
    decoder: dict[str, Any] = {
        "in_channels": latent_channels,
        "head_dim": 16,
        "stage_channels": WIDTHS,
        "stage_depths": DEPTHS,
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
        "t_emb_dim": 24,
    }
    if windows == "small":
        decoder["stage_kernels"] = [[3, 3, 5], [3, 5, 3], [3, 3, 3], [3, 5, 3]]
        decoder["stage5_kernel"] = [5, 3, 7]
    return {"vae": {"_class_name": "CausalDiffusionVAE", "decoder": decoder}}


def peer_of(ours: DiffusionVideoDecoder, config: dict[str, Any]) -> Any:
    """The model of diffusers with the weights of ``ours``, whose configuration is ``config``."""
    from diffusers.models.autoencoders.ltx2_diffusion_decoder import LTX2VideoDiffusionDecoderModel

    peer = LTX2VideoDiffusionDecoderModel(**diffusion_out.decoder_out(config, {})).eval()
    state = {}
    for name, tensor in ours.state_dict().items():
        parts = {name: tensor}
        if ".qkv." in name:
            names = (name.replace(".qkv.", f".to_{part}.") for part in "qkv")
            parts = dict(zip(names, tensor.chunk(3), strict=True))
        state.update({renamed(own, diffusion_out.RULES): part for own, part in parts.items()})
    peer.load_state_dict(state, strict=True)
    return peer


class Na3d:
    """Attention of diffusers' decoder by the kernel of comfy-kitchen, which ComfyUI's own decoder calls."""

    def __call__(self, attn: Any, hidden_states: Tensor, block_mask: object = None) -> Tensor:
        from comfy_kitchen import na3d

        # A kernel with the window in itself needs no mask.
        assert block_mask is None
        q, k, v = (part.contiguous() for part in attn.project_qkv(hidden_states))
        out: Tensor = attn.to_out[0](na3d(q, k, v, list(attn.kernel_size), None, 1.0).flatten(-2))
        return out


def compared(windows: str, attention_of: str, repeats: int) -> None:
    """Print one row of ours and one of the peer whose attention ``attention_of`` computes."""
    config = small(windows)
    ours = DiffusionVideoDecoder(video_vae_config(config)).eval()
    ours.load_state_dict(random_weights(ours, 0))
    cells = (3, 7, 7) if windows == "released" else (3, 3, 5)
    latent = torch.randn(1, 16, *cells, generator=torch.Generator().manual_seed(1))
    raw = ours.per_channel_statistics.un_normalize(latent)
    peer = peer_of(ours, config)
    if attention_of == "na3d":
        peer.set_attn_processor(Na3d())

    def theirs() -> Tensor:
        frames: Tensor = peer.decode(raw, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
        return frames

    ways = {"ours": lambda: ours.decode(latent, noise=VolumeNoise(0)), f"diffusers, {attention_of}": theirs}
    times: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(repeats):
        for name, decode in ways.items():
            start = time.process_time()
            results[name] = decode()
            times[name].append(time.process_time() - start)
    for name, seconds in times.items():
        ratio = median(one / other for one, other in zip(times["ours"], seconds, strict=True))
        difference = (results[name] - results["ours"]).abs().max()
        print(f"| {windows} | {name} | {min(seconds):.2f} | {ratio:.2f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
