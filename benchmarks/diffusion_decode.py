"""Time of the diffusion video decoder against diffusers on the CPU, and its memory at released sizes.

    python benchmarks/diffusion_decode.py                 # processor time, interleaved in one process
    python benchmarks/diffusion_decode.py --trace 768 512 20 12

The peer is LTX2VideoDiffusionDecoderModel of diffusers, with the same random weights of the released
structure at small width, decoding the same latent whole; its attention (FlexAttention) is run as diffusers
runs it. ``--trace WIDTH HEIGHT LATENTS ROWS`` counts the bytes of a decode in bfloat16 on the meta device,
ROWS frames at a time, beside what the plan predicts; it takes minutes, and allocates nothing.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

import torch

from ltx2_core.config import VideoVAEConfig, video_vae_config
from ltx2_core.memory import Trace
from ltx2_core.memory.diffusion_decoding import diffusion_memory
from ltx2_core.tiny.weights import random_weights
from ltx2_core.video_vae import DiffusionVideoDecoder, VolumeNoise
from ltx2_core.video_vae.diffusion.reach import piece_bytes

WIDTHS = [64, 32, 16, 16, 16]
DEPTHS = [2, 2, 2, 1, 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=int, nargs=4, metavar=("WIDTH", "HEIGHT", "LATENTS", "ROWS"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if options.trace:
            traced(*options.trace)
        else:
            compared(options.repeats)


def traced(width: int, height: int, latents: int, rows: int) -> None:
    vae = video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE"}})
    cells = height // 32, width // 32
    decoder = DiffusionVideoDecoder(vae, dtype=torch.bfloat16, device="meta").eval()
    latent = torch.empty(1, 128, latents, *cells, dtype=torch.bfloat16, device="meta")
    with Trace() as trace:
        for frames in decoder.decode_stream(latent, max_piece_bytes=piece_bytes(vae, cells, 2, rows)):
            del frames
    predicted = diffusion_memory(vae, latent_frames=latents, cells=cells, itemsize=2, rows=rows).peak
    print(f"{width}x{height}, {latents} latent frames, {rows} at a time")
    print(f"traced {trace.peak / 1e9:.3f} GB, predicted {predicted / 1e9:.3f} GB")


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
