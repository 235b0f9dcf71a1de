"""Rows of the GPU benchmark beside plain steps: int8, ComfyUI's network, a whole clip."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from core_step import build_core, core_forward
from gpu_network import Bench, Inputs
from rows import Row
from torch import Tensor, nn

from ltx2_core.conditioning.patchify import unpatchify_video
from ltx2_core.media import VideoWriter
from ltx2_core.memory import released_size
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS
from ltx2_core.shapes import ClipPlan, plan_clip
from ltx2_core.storage.dequantize import Format
from ltx2_core.storage.header import TensorInfo
from ltx2_core.storage.kitchen import kitchen_problem
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import StoredLayer, replace_linears
from ltx2_core.transformer import Runner, Transformer
from ltx2_core.video_vae import VideoDecoder


def int8_step(bench: Bench, model: Transformer, size: str) -> Row:
    """A forward pass with the blocks in int8 ConvRot, as the default files of LTX-2.5 store them.

    The network shares the other weights with ``model``.
    """
    rotation = 16 if bench.tiny else 256
    twin = Transformer(bench.config, device="meta", dtype=bench.dtype).eval().requires_grad_(False)
    state, layers = dict(model.state_dict()), []
    for name, module in model.transformer_blocks.named_modules(prefix="transformer_blocks"):
        if type(module) is not nn.Linear or module.in_features % rotation or module.out_features % 8:
            continue
        form = Format("int8", rotation)
        stored = encode(form, module.weight)
        infos = {s: _info(s, tensor) for s, tensor in stored.items()}
        layers.append(StoredLayer(name, form, infos))
        state |= {f"{name}.{suffix}": tensor for suffix, tensor in stored.items()}
    replace_linears(twin, layers, int8_matmul=True)
    twin.load_state_dict(state, strict=True, assign=True)
    row = bench.step(Runner(twin, fused=bench.kernels), size)
    row["products"] = kitchen_problem("int8", bench.device) or "comfy-kitchen"
    return {"layers": len(layers), **row}


def host_step(bench: Bench, model: Transformer, size: str) -> Row:
    """A forward pass of ComfyUI's own network with the same weights and inputs, and ours over it."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        return {"not measured": "set COMFYUI_DIR to a checkout of ComfyUI, with its requirements installed"}
    clip = _clip(bench, size)
    peer = build_core(Path(folder), model, on_cpu=not bench.cuda)
    video, audio, _ = bench.inputs(size)
    grid = (clip.latent_frames, clip.latent_height, clip.latent_width)
    row: Row = {}
    with torch.inference_mode(), bench.peak(row):
        row["ms"] = 1000 * bench.seconds(core_forward(peer, video, audio, grid, clip.fps))
    if size in bench.resident:
        row["ours over it"] = bench.resident[size] / row["ms"]
    return row


def whole_clip(bench: Bench, model: Transformer, size: str) -> Row:
    """Seconds of the 8 distilled steps, the video decoder and the file, without text and decoding audio."""
    clip = _clip(bench, size)
    vae = released_size("2.3").vae
    if bench.tiny:
        vae = replace(vae, decoder_base_channels=8)
    decoder = VideoDecoder(vae, dtype=bench.dtype, device=bench.device).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.normal_(std=0.01)
    run, inputs = Runner(model, fused=bench.kernels), bench.inputs(size)
    row: Row = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), bench.peak(row):
        # The first clip compiles kernels and loads codecs.
        for _ in range(2):
            start = time.perf_counter()
            latent = _sampled(run, inputs, clip)
            bench.wait()
            sampled = time.perf_counter()
            path = Path(folder, "clip.mp4")
            with VideoWriter(path, width=clip.width, height=clip.height, fps=clip.fps) as writer:
                for piece in decoder.decode_stream(latent):
                    frames = ((piece[0] + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
                    writer.write_frames(frames.transpose(0, 1).cpu())
            end = time.perf_counter()
        row |= {"s": end - start, "steps_s": sampled - start, "decode_and_file_s": end - sampled}
        row["file_mb"] = path.stat().st_size / 1e6
    return row


def _info(suffix: str, tensor: Tensor) -> TensorInfo:
    dtype = "I8" if suffix == "weight" else "F32"
    return TensorInfo(suffix, dtype, tuple(tensor.shape), 0, tensor.nbytes, Path())


def _sampled(run: Runner, inputs: Inputs, clip: ClipPlan) -> Tensor:
    """The video latent after Euler steps of both streams from noise."""
    video, audio, tables = inputs
    tokens = [video.tokens, audio.tokens]
    for sigma, following in pairwise(DISTILLED_SIGMAS.tolist()):
        streams = [
            replace(s, tokens=x, sigma=torch.full_like(s.sigma, sigma), timesteps=torch.full((1, 1), sigma))
            for s, x in zip((video, audio), tokens, strict=True)
        ]
        velocities = run(*streams, rope=tables)
        tokens = [x + v * (following - sigma) for x, v in zip(tokens, velocities, strict=True)]
    return unpatchify_video(tokens[0], clip.latent_frames, clip.latent_height, clip.latent_width)


def _clip(bench: Bench, size: str) -> ClipPlan:
    width, height, frames = bench.sizes[size]
    return plan_clip(width, height, frames=frames)
