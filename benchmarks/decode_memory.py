"""Peak memory and time of the video decoder over the length of the clip, against diffusers' autoencoder.

    python benchmarks/decode_memory.py --frames 25 49 97 193 --size 384 --width 32 --piece-mib 8
    python benchmarks/decode_memory.py --decoder diffusion --frames 121 241 --size 160 --piece-mib 1

The peer is AutoencoderKLLTX2Video, with ``--decoder diffusion`` LTX2VideoDiffusionDecoderModel, whose
attention is ``na3d`` of comfy-kitchen and whose frames start from other noise (their difference says
nothing). A random LTX-2.0 decoder of small width runs on the CPU, each case in a process of its own. Columns:

- `live MiB`: peak of the bytes in tensors, without the returned frames; the same in each run;
- `rss MiB`: peak growth of the resident set, without the returned frames;
- `ratio`: processor time over that of diffusers decoding the whole clip; below 1 is faster;
- `difference`: largest difference from the frames of diffusers.

Streamed decoding caches a few frames per layer and works in pieces of at most `--piece-mib`. Its peak must
not grow with the length of the clip; the exit code is 1 if it does.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("streamed", "whole", "diffusers whole", "diffusers tiled")
LATENT_CHANNELS = 128
LAYERS = 5
MIB = 2**20
FLAT = 1.05
"""Limit of the largest streamed peak over the smallest."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One decoding: the method, the size of clip and decoder, and the settings of the process."""

    method: str
    frames: int
    size: int
    width: int
    piece_bytes: int
    threads: int
    repeats: int
    decoder: str = "conv"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Memory and time of one decoding; bytes do not include the returned frames."""

    live_bytes: int
    rss_bytes: int
    seconds: float
    sample: list[float]
    """Every 9th pixel of some frames, for comparing methods."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[25, 49, 97, 193], help="pixel frames, 8k + 1"
    )
    parser.add_argument("--size", type=int, default=384, help="height and width in pixels")
    parser.add_argument("--width", type=int, default=32, help="decoder base channels; released: 128")
    parser.add_argument(
        "--piece-mib",
        type=float,
        default=8.0,
        help="largest activation of `streamed`; `whole` uses the default",
    )
    parser.add_argument("--decoder", choices=("conv", "diffusion"), default="conv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each case; the fastest counts")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(asdict(measure(Case(**json.loads(options.case))))))
        return
    print(
        f"{'frames':>6}  {'method':<16}{'live MiB':>10}{'rss MiB':>10}{'cpu s':>10}{'ratio':>8}  difference"
    )
    streamed: list[int] = []
    for frames in options.frames:
        results = {m: in_own_process(case_of(options, m, frames)) for m in options.methods}
        peer = results.get("diffusers whole")
        for method, result in results.items():
            print(row(frames, method, result, peer), flush=True)
        if "streamed" in results:
            streamed.append(results["streamed"].live_bytes)
    if len(streamed) > 1:
        growth = max(streamed) / min(streamed)
        print(f"streamed peak, largest over smallest: {growth:.3f} (limit {FLAT})")
        if growth > FLAT:
            sys.exit(1)


def case_of(options: argparse.Namespace, method: str, frames: int) -> Case:
    if (frames - 1) % 8:
        raise SystemExit(f"frames must be 8k + 1; got {frames}")
    return Case(
        method=method,
        frames=frames,
        size=options.size,
        width=options.width,
        piece_bytes=int(options.piece_mib * MIB),
        threads=options.threads,
        repeats=options.repeats,
        decoder=options.decoder,
    )


def in_own_process(case: Case) -> Result:
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(case.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def row(frames: int, method: str, result: Result, peer: Result | None) -> str:
    ratio = difference = "-"
    if peer is not None:
        ratio = f"{result.seconds / peer.seconds:.2f}"
        difference = f"{max(abs(a - b) for a, b in zip(result.sample, peer.sample, strict=True)):.1e}"
    live, rss = result.live_bytes / MIB, result.rss_bytes / MIB
    return (
        f"{frames:>6}  {method:<16}{live:>10.1f}{rss:>10.1f}{result.seconds:>10.2f}{ratio:>8}  {difference}"
    )


@torch.inference_mode()
def measure(case: Case) -> Result:
    torch.set_num_threads(case.threads)
    decode = decoder_of(case)
    latent_shape = (1, LATENT_CHANNELS, (case.frames - 1) // 8 + 1, case.size // 32, case.size // 32)
    latent = torch.randn(latent_shape, generator=torch.Generator().manual_seed(1))
    out = torch.empty(1, 3, case.frames, case.size, case.size)
    output_bytes = out.nbytes
    out.zero_()
    del out
    # One latent frame is less than diffusers' diffusion decoder takes.
    decode(latent[:, :, : 1 if case.decoder == "conv" else 3])
    release_memory()

    baseline = resident_bytes()
    seconds = []
    for _ in range(case.repeats):
        start = time.process_time()
        frames = decode(latent)
        seconds.append(time.process_time() - start)
        sample = frames[0, :, :: max(1, case.frames // 8), ::9, ::9].flatten().tolist()
        del frames
        if len(seconds) == 1:
            rss = peak_resident_bytes() - baseline - output_bytes
        release_memory()
    with LiveBytes() as live:
        decode(latent)
    return Result(live_bytes=live.peak - output_bytes, rss_bytes=rss, seconds=min(seconds), sample=sample)


def diffusion_decoder_of(case: Case) -> Callable[[Tensor], Tensor]:
    """The diffusion decoder of LTX-2.5, or diffusers' with the same weights, at small width."""
    from diffusion_decode import Na3d, peer_of, small

    from ltx2_core.config import video_vae_config
    from ltx2_core.tiny.weights import random_weights
    from ltx2_core.video_vae import DiffusionVideoDecoder

    config = small("small", LATENT_CHANNELS)
    decoder = DiffusionVideoDecoder(video_vae_config(config)).eval()
    decoder.load_state_dict(random_weights(decoder, 0))
    if not case.method.startswith("diffusers"):
        limit = case.piece_bytes if case.method == "streamed" else 1 << 40
        return lambda latent: decoder.decode(latent, max_piece_bytes=limit)
    peer = peer_of(decoder, config)
    peer.set_attn_processor(Na3d())
    if case.method == "diffusers tiled":
        peer.enable_tiling()

    def decode(latent: Tensor) -> Tensor:
        raw = decoder.per_channel_statistics.un_normalize(latent)
        frames: Tensor = peer.decode(raw, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
        return frames

    return decode


def decoder_of(case: Case) -> Callable[[Tensor], Tensor]:
    if case.decoder == "diffusion":
        return diffusion_decoder_of(case)
    from ltx2_core.config import video_vae_config
    from ltx2_core.video_vae import MAX_PIECE_BYTES, VideoDecoder

    up = ["compress_all", {"residual": True, "multiplier": 2}]
    blocks = [["res_x", LAYERS], *([up, ["res_x", LAYERS]] * 3)]
    vae = {"decoder_base_channels": case.width, "latent_channels": LATENT_CHANNELS, "decoder_blocks": blocks}
    torch.manual_seed(0)
    decoder = VideoDecoder(video_vae_config({"vae": vae})).eval()
    if not case.method.startswith("diffusers"):
        limit = case.piece_bytes if case.method == "streamed" else MAX_PIECE_BYTES
        return lambda latent: decoder.decode(latent, max_piece_bytes=limit)

    peer = diffusers_twin(decoder, case)
    if case.method == "diffusers tiled":
        peer.enable_tiling()
        peer.use_framewise_decoding = True
    return lambda latent: peer.decode(latent, causal=False, return_dict=False)[0]


def diffusers_twin(decoder: torch.nn.Module, case: Case) -> Any:
    """diffusers' autoencoder with the same decoder weights; its encoder is never run."""
    from diffusers import AutoencoderKLLTX2Video

    peer = AutoencoderKLLTX2Video(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_block_out_channels=tuple(case.width * n for n in (2, 4, 8)),
        decoder_layers_per_block=(LAYERS,) * 4,
        decoder_causal=False,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()
    renamed = {}
    for name, value in decoder.decoder.state_dict().items():
        name = name.replace("res_blocks", "resnets")
        if name.startswith("up_blocks."):
            _, index, rest = name.split(".", 2)
            block = (int(index) - 1) // 2
            if index == "0":
                name = f"mid_block.{rest}"
            elif int(index) % 2:
                name = f"up_blocks.{block}.upsamplers.0.{rest}"
            else:
                name = f"up_blocks.{block}.{rest}"
        renamed[name] = value
    peer.decoder.load_state_dict(renamed, strict=True)
    return peer


class LiveBytes(TorchDispatchMode):
    """Peak bytes of all storages that operations allocate, counted as long as they are referenced."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {at: entry for at, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def release_memory() -> None:
    """Return freed memory to the system, so that the next peak is measured from what is allocated."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
