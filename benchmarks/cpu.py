"""The gates that a CPU and the meta device can measure, beside diffusers and ComfyUI's core where they are.

    python benchmarks/cpu.py --out benchmarks/results --repeats 3

Steps of small and of released width: processor time, ours and theirs in turns, in one process. Calls of a
block and peaks at released sizes: traced on meta tensors, which needs no memory. Decoding: processor time and
peak of a decoder of a quarter of the released width. JSON, Markdown and a picture, written row by row.
"""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import decode_memory
import torch
import transformer_step
from core_step import build_core, core_forward
from rows import Row, Rows

from ltx2_core.conditioning.patchify import unpatchify_video
from ltx2_core.memory import Trace, released_size
from ltx2_core.memory.estimate import decoding, step_bytes
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer import Modality, Runner, Transformer
from ltx2_core.video_vae import VideoDecoder

SIZES = {"768x512x121": (768, 512, 121), "1920x1088x121": (1920, 1088, 121)}
CHUNK = 2048


def step(case: transformer_step.Case, repeats: int) -> Row:
    """Processor time of a step over diffusers', and of an image-to-video step over a text-to-video step."""
    with torch.inference_mode():
        measured = {name: numbers for name, numbers, _ in transformer_step.measure(case, repeats)}
    plain, image = measured["uniform, tables kept"], measured["per token, tables kept"]
    return {
        "ours over diffusers": plain[3],
        "image, ours over diffusers": image[3],
        "image over text": image_over_text(case, repeats),
    }


def image_over_text(case: transformer_step.Case, repeats: int) -> float:
    """Processor time of our image-to-video step over that of our text-to-video step, in turns."""
    ours, (video, audio) = Runner(transformer_step.build_ours(case)), transformer_step.streams(case)
    image = transformer_step.per_token(case, video)
    with torch.inference_mode():
        tables = ours.rope_tables(video.positions, audio.positions, dtype=case.dtype)
        steps = [lambda given=given: ours(given, audio, rope=tables) for given in (image, video)]
        return transformer_step.alternate(*steps, repeats)[3]


def core(case: transformer_step.Case, repeats: int) -> Row:
    """Processor time of a step over that of the network of the ComfyUI that ``COMFYUI_DIR`` names."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        return {"not measured": "set COMFYUI_DIR to a checkout of ComfyUI"}
    network = transformer_step.build_ours(case)
    ours = Runner(network)
    video, audio = transformer_step.streams(case)
    theirs = core_forward(build_core(Path(folder), network), video, audio, case.grid, transformer_step.FPS)
    with torch.inference_mode():
        tables = ours.rope_tables(video.positions, audio.positions, dtype=case.dtype)
        expected, found = theirs()[0], ours(video, audio)[0]
        assert found is not None
        made = unpatchify_video(found, *case.grid)
        measured = transformer_step.alternate(lambda: ours(video, audio, rope=tables), theirs, repeats)
        anew = transformer_step.alternate(lambda: ours(video, audio), theirs, repeats)
    return {
        "ours over core": measured[3],
        "tables anew, ours over core": anew[3],
        "largest relative difference": float((made - expected).abs().max() / expected.abs().max()),
    }


def traced_step(size: str, *, layers: int = 1, chunk_tokens: int | None = None, image: bool = False) -> Trace:
    """One step of 2.3 on the meta device, with its rotary tables."""
    config = replace(released_size("2.3").transformer, num_layers=layers)
    clip = plan_clip(*SIZES[size][:2], frames=SIZES[size][2])
    model = Transformer(config, dtype=torch.bfloat16, device="meta")
    run = Runner(model, chunk_tokens=chunk_tokens)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.bfloat16, device="meta")

    streams = []
    for tokens, axes, width in ((clip.video_tokens, 3, config.dim), (clip.audio_tokens, 1, config.audio_dim)):
        times = torch.full((1, tokens if image and axes == 3 else 1), 0.7)
        times[:, : clip.latent_height * clip.latent_width] *= 0 if times.shape[1] > 1 else 1
        streams.append(
            Modality(
                tokens=empty(1, tokens, 128),
                timesteps=times,
                sigma=torch.empty(1, device="meta"),
                positions=empty(1, axes, tokens, 2),
                context=empty(1, 1024, width),
            )
        )
    with torch.no_grad():
        tables = model.rope_tables(
            streams[0].positions, streams[1].positions, dtype=torch.bfloat16, device="meta"
        )
        held = [t for rope in vars(tables).values() if rope is not None for t in (rope.cos, rope.sin)]
        with Trace(held) as trace:
            run(*streams, rope=tables)
    return trace


def peak(size: str, chunk_tokens: int | None) -> Row:
    clip, config = plan_clip(*SIZES[size][:2], frames=SIZES[size][2]), released_size("2.3").transformer
    text, image = (
        traced_step(size, chunk_tokens=chunk_tokens, image=image).peak / 1e9 for image in (False, True)
    )
    planned = step_bytes(config, clip, 2, chunk_tokens=chunk_tokens) / 1e9
    return {"text_gb": text, "image_gb": image, "planned_gb": planned, "planned over traced": planned / text}


def operations() -> Row:
    """Calls of one more block, views included."""
    row: Row = {}
    for name, image in (("text", False), ("image", True)):
        one, two = (traced_step("768x512x121", layers=n, image=image).operations.total() for n in (1, 2))
        row[name] = two - one
    return row


def decoded(size: str) -> Row:
    vae, clip = released_size("2.0").vae, plan_clip(*SIZES[size][:2], frames=SIZES[size][2])
    decoder = VideoDecoder(vae, dtype=torch.bfloat16, device="meta").eval()
    latent = torch.empty(clip.video_shape(), dtype=torch.bfloat16, device="meta")
    with torch.inference_mode(), Trace() as trace:
        for piece in decoder.decode_stream(latent):
            del piece
    planned = decoding(vae, clip, 2)
    return {
        "peak_gb": trace.peak / 1e9,
        "planned_gb": planned.peak / 1e9,
        "state_gb": planned.state / 1e9,
        "mb a frame": (decoding(vae, replace(clip, frames=9601), 2).peak - planned.peak) / 9480 / 1e6,
    }


def decode_time(frames: int, size: int, method: str) -> Row:
    options = Namespace(size=size, width=32, piece_mib=128.0, threads=1, repeats=1)
    ours, theirs = (
        decode_memory.in_own_process(decode_memory.case_of(options, m, frames))
        for m in (method, "diffusers whole")
    )
    return {
        "ours over diffusers": ours.seconds / theirs.seconds,
        "live_mib": ours.live_bytes / 2**20,
        "diffusers_mib": theirs.live_bytes / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=3600)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.out, options.name, options.budget_s, {"device": "CPU", "cores": os.cpu_count()})
    every = {
        "operations of a block": operations,
        **{
            f"step {size}, {'whole' if chunk is None else f'chunks of {chunk}'}": lambda s=size, c=chunk: (
                peak(s, c)
            )
            for size in SIZES
            for chunk in (None, CHUNK)
        },
        **{f"decode {size}, traced": lambda s=size: decoded(s) for size in SIZES},
        **{f"step {case.name}": lambda c=case: step(c, options.repeats) for case in transformer_step.cases()},
        **{
            f"step {case.name}, core": lambda c=case: core(c, options.repeats)
            for case in transformer_step.cases()
        },
        "decode 49 frames, 256 px, streamed": lambda: decode_time(49, 256, "streamed"),
    }
    for name, run in every.items():
        if options.only in name:
            rows.measure(name, run, needs_s=0)
    rows.draw("ours over diffusers", "processor time over diffusers, same run")
    rows.write()


if __name__ == "__main__":
    main()
