"""Forward passes, memory and decoding on a CPU and the meta device, against diffusers and ComfyUI core.

    python benchmarks/cpu.py --out benchmarks/results --repeats 3

Measured without a GPU:

- a forward pass of the transformer, of small and of released width: processor time over that of diffusers
  and, if ``COMFYUI_DIR`` names a checkout, of ComfyUI core; both sides alternate in one process;
- operations of a block and peak memory at released sizes, traced on meta tensors, over what the memory plan
  says; kernels that a GPU would start in a step, and the bytes that they would move;
- decoding with a quarter of the released width: processor time over that of diffusers, and peak memory.

Ratios below 1 are better than the peer. Writes JSON, Markdown and a chart, after every row.
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
from kernel_counts import CountedWindows, Counts, counted_fused
from rows import Row, Rows

from ltx2_core.conditioning.patchify import unpatchify_video
from ltx2_core.memory import Trace, released_size
from ltx2_core.memory.estimate import decoding, step_bytes
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer import Modality, RopeTables, Runner, Transformer
from ltx2_core.transformer.fused import Fused
from ltx2_core.transformer.packed import pack_projections
from ltx2_core.video_vae import VideoDecoder

SIZES = {"768x512x121": (768, 512, 121), "1920x1088x121": (1920, 1088, 121)}
CHUNK = 2048


def step(case: transformer_step.Case, repeats: int) -> Row:
    """Processor time of a forward pass over that of diffusers, for text and for image to video."""
    with torch.inference_mode():
        measured = {name: numbers for name, numbers, _ in transformer_step.measure(case, repeats)}
    plain, image = measured["uniform, tables cached"], measured["per token, tables cached"]
    return {
        "ours over diffusers": plain[3],
        "image, ours over diffusers": image[3],
        "image over text": image_over_text(case, repeats),
    }


def image_over_text(case: transformer_step.Case, repeats: int) -> float:
    """Processor time of our forward pass of image to video over that of text to video, alternating."""
    ours, (video, audio) = Runner(transformer_step.build_ours(case)), transformer_step.streams(case)
    image = transformer_step.per_token(case, video)
    with torch.inference_mode():
        tables = ours.rope_tables(video.positions, audio.positions, dtype=case.dtype)
        steps = [lambda stream=stream: ours(stream, audio, rope=tables) for stream in (image, video)]
        return transformer_step.alternate(*steps, repeats)[3]


def core(case: transformer_step.Case, repeats: int) -> Row:
    """Processor time of a forward pass over that of ComfyUI core, with cached and with new rotary tables."""
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
        velocity = unpatchify_video(found, *case.grid)
        measured = transformer_step.alternate(lambda: ours(video, audio, rope=tables), theirs, repeats)
        uncached = transformer_step.alternate(lambda: ours(video, audio), theirs, repeats)
    return {
        "ours over core": measured[3],
        "without cached tables, ours over core": uncached[3],
        "largest relative difference": float((velocity - expected).abs().max() / expected.abs().max()),
    }


def traced_step(size: str, *, layers: int = 1, chunk_tokens: int | None = None, image: bool = False) -> Trace:
    """Trace a forward pass of 2.3 on the meta device, with cached rotary tables."""
    run, streams, tables = meta_step(size, layers=layers, chunk_tokens=chunk_tokens, image=image)
    held = [t for rope in vars(tables).values() if rope is not None for t in (rope.cos, rope.sin)]
    with torch.no_grad(), Trace(held) as trace:
        run(*streams, rope=tables)
    return trace


def meta_step(
    size: str,
    *,
    layers: int,
    chunk_tokens: int | None = None,
    image: bool = False,
    fused: Fused | None = None,
) -> tuple[Runner, list[Modality], RopeTables]:
    """The transformer of 2.3 with ``layers`` blocks, its inputs and its rotary tables, on the meta device."""
    config = replace(released_size("2.3").transformer, num_layers=layers)
    clip = plan_clip(*SIZES[size][:2], frames=SIZES[size][2])
    # As loaders leave weights, so that those of one input can be moved together.
    model = Transformer(config, dtype=torch.bfloat16, device="meta").requires_grad_(False)
    run = Runner(model, chunk_tokens=chunk_tokens, fused=fused)

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
    return run, streams, tables


def kernels_of_a_step(size: str, *, fused: bool) -> Row:
    """Kernels of a forward pass of all blocks, and the bytes that they move: of two blocks and of one."""
    found = []
    for layers in (1, 2):
        counts = Counts()
        run, streams, tables = meta_step(size, layers=layers, fused=counted_fused(counts) if fused else None)
        if fused:
            pack_projections(run.transformer.transformer_blocks)
        with torch.no_grad(), counts:
            run(*streams, rope=tables)
        found.append((counts.kernels, counts.elementwise / 1e9, counts.products / 1e9))
    more = released_size("2.3").transformer.num_layers - 1
    kernels, elementwise, products = (one + more * (two - one) for one, two in zip(*found, strict=True))
    return {"kernels": kernels, "elementwise_gb": elementwise, "products_gb": products}


def kernels_of_a_decode(generation: str, size: str, *, fused: bool) -> Row:
    """Kernels of decoding a clip on a GPU, and the bytes that they move, beside and in convolutions."""
    vae, clip = released_size(generation).vae, plan_clip(*SIZES[size][:2], frames=SIZES[size][2])
    decoder = VideoDecoder(vae, dtype=torch.bfloat16, device="meta").eval()
    latent = torch.empty(clip.video_shape(), dtype=torch.bfloat16, device="meta")
    counts = Counts()
    if fused:
        decoder.windows = CountedWindows(counts)
    with torch.no_grad(), counts:
        for piece in decoder.decode_stream(latent):
            del piece
    return {
        "kernels": counts.kernels,
        "elementwise_gb": counts.elementwise / 1e9,
        "products_gb": counts.products / 1e9,
    }


def peak(size: str, chunk_tokens: int | None) -> Row:
    """Peak memory of a forward pass, traced and as the memory plan estimates it, and their ratio."""
    clip, config = plan_clip(*SIZES[size][:2], frames=SIZES[size][2]), released_size("2.3").transformer
    text, image = (
        traced_step(size, chunk_tokens=chunk_tokens, image=image).peak / 1e9 for image in (False, True)
    )
    planned = step_bytes(config, clip, 2, chunk_tokens=chunk_tokens) / 1e9
    return {"text_gb": text, "image_gb": image, "planned_gb": planned, "planned over traced": planned / text}


def operations() -> Row:
    """Operations of one block, views included: those of two blocks minus those of one."""
    row: Row = {}
    for name, image in (("text", False), ("image", True)):
        one, two = (traced_step("768x512x121", layers=n, image=image).operations.total() for n in (1, 2))
        row[name] = two - one
    return row


def decoded(size: str) -> Row:
    """Peak memory of streamed decoding at the released width, traced and planned."""
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
    """Processor time and peak memory of decoding, over diffusers decoding the whole clip."""
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
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.out, options.name, options.budget_s, {"device": "CPU", "cores": os.cpu_count()})
    every = {
        "operations of a block": operations,
        **{
            f"step {size}, {'fused kernels' if fused else 'eager'}, counted": lambda s=size, f=fused: (
                kernels_of_a_step(s, fused=f)
            )
            for size in SIZES
            for fused in (False, True)
        },
        **{
            f"decode {size}, {generation}, {'fused kernels' if fused else 'eager'}, counted": (
                lambda s=size, g=generation, f=fused: kernels_of_a_decode(g, s, fused=f)
            )
            for size in ("1920x1088x121",)
            for generation in ("2.0", "2.3")
            for fused in (False, True)
        },
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
