"""A forward pass of the transformer against that of diffusers, with the same random weights in one process.

    python benchmarks/transformer_step.py --threads 1 --repeats 5

Runs alternate, so that both sides share the state of the machine. A ratio is the median over pairs of ours /
theirs, of wall time and of CPU time, which other processes disturb less; below 1 is faster. ``tables cached``
passes the rotary tables in, as a sampler does from its second step on. ``per token`` has another timestep for
the first latent frame than for the others, as image to video has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import isnan

import torch
from torch import Tensor

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.config import TransformerConfig
from ltx2_core.transformer import Modality, Runner, Transformer

FPS = 24.0

# diffusers name -> released name; of the top-level prefixes the first that matches is replaced.
TOP_LEVEL = {
    "proj_in.": "patchify_proj.",
    "audio_proj_in.": "audio_patchify_proj.",
    "time_embed.": "adaln_single.",
    "audio_time_embed.": "audio_adaln_single.",
    "prompt_adaln.": "prompt_adaln_single.",
    "audio_prompt_adaln.": "audio_prompt_adaln_single.",
    "av_cross_attn_video_scale_shift.": "av_ca_video_scale_shift_adaln_single.",
    "av_cross_attn_audio_scale_shift.": "av_ca_audio_scale_shift_adaln_single.",
    "av_cross_attn_video_a2v_gate.": "av_ca_a2v_gate_adaln_single.",
    "av_cross_attn_audio_v2a_gate.": "av_ca_v2a_gate_adaln_single.",
}
ANYWHERE = {
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
    ".video_a2v_cross_attn_scale_shift_table": ".scale_shift_table_a2v_ca_video",
    ".audio_a2v_cross_attn_scale_shift_table": ".scale_shift_table_a2v_ca_audio",
}

Velocities = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network and clip of the table."""

    name: str
    config: TransformerConfig
    dtype: torch.dtype
    grid: tuple[int, int, int]
    text: int


def released_name(name: str) -> str:
    for theirs, ours in TOP_LEVEL.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for theirs, ours in ANYWHERE.items():
        name = name.replace(theirs, ours)
    return name


def build(case: Case) -> tuple[Transformer, torch.nn.Module]:
    """Our network and that of diffusers, which share their tensors."""
    ours = build_ours(case)
    return ours, diffusers_twin(case.config, ours)


def build_ours(case: Case) -> Transformer:
    ours = Transformer(case.config, device="meta")
    generator = torch.Generator().manual_seed(0)

    def random(name: str, shape: torch.Size) -> Tensor:
        values = torch.empty(shape, dtype=case.dtype).normal_(generator=generator)
        return values.div_(shape[-1] ** 0.5) if len(shape) > 1 else values.mul_(0.02).add_("norm" in name)

    state = {name: random(name, p.shape) for name, p in ours.state_dict().items()}
    ours.load_state_dict(state, assign=True)
    return ours.eval()


def diffusers_twin(c: TransformerConfig, ours: Transformer) -> torch.nn.Module:
    """diffusers' transformer with the tensors of ours."""
    from diffusers import LTX2VideoTransformer3DModel

    with torch.device("meta"):
        theirs = LTX2VideoTransformer3DModel(
            in_channels=c.in_channels,
            out_channels=c.out_channels,
            num_attention_heads=c.heads,
            attention_head_dim=c.head_dim,
            cross_attention_dim=c.dim,
            gated_attn=c.gated_attention,
            cross_attn_mod=c.cross_attention_adaln,
            audio_num_attention_heads=c.heads,
            audio_attention_head_dim=c.audio_head_dim,
            audio_cross_attention_dim=c.audio_dim,
            audio_gated_attn=c.gated_attention,
            audio_cross_attn_mod=c.cross_attention_adaln,
            num_layers=c.num_layers,
            caption_channels=c.caption_channels,
            rope_type=c.rope.rope_type,
            use_prompt_embeddings=c.caption_projection,
        )
    state = ours.state_dict()
    theirs.load_state_dict({n: state[released_name(n)] for n in theirs.state_dict()}, assign=True)
    return theirs.eval()


def streams(case: Case) -> tuple[Modality, Modality]:
    """A random clip at noise level 0.7."""
    c, (frames, height, width) = case.config, case.grid
    pixel_frames = 8 * (frames - 1) + 1
    length = round(pixel_frames / FPS * 25)
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator).to(case.dtype)

    sigma = torch.tensor([0.7])
    k_video, k_audio = (c.caption_channels,) * 2 if c.caption_projection else (c.dim, c.audio_dim)
    video = Modality(
        tokens=random(frames * height * width, c.in_channels),
        timesteps=sigma[:, None],
        sigma=sigma,
        positions=video_positions(frames, height, width, FPS),
        context=random(case.text, k_video),
    )
    audio = Modality(
        tokens=random(length, c.audio_in_channels),
        timesteps=sigma[:, None],
        sigma=sigma,
        positions=audio_positions(length),
        context=random(case.text, k_audio),
    )
    return video, audio


def their_forward(model: torch.nn.Module, video: Modality, audio: Modality) -> Callable[[], Velocities]:
    """A call of diffusers' transformer with the inputs of ours."""

    def timestep(modality: Modality) -> Tensor:
        per_sample = modality.timesteps.shape[1] == 1
        return (modality.timesteps[:, 0] if per_sample else modality.timesteps) * 1000

    return lambda: model(
        hidden_states=video.tokens,
        audio_hidden_states=audio.tokens,
        encoder_hidden_states=video.context,
        audio_encoder_hidden_states=audio.context,
        timestep=timestep(video),
        audio_timestep=timestep(audio),
        sigma=video.sigma * 1000,
        audio_sigma=audio.sigma * 1000,
        video_coords=video.positions,
        audio_coords=audio.positions,
        return_dict=False,
    )


def per_token(case: Case, video: Modality) -> Modality:
    """The stream with a clean first latent frame: timestep 0 on its tokens."""
    frames, height, width = case.grid
    timesteps = video.timesteps.repeat(1, frames * height * width)
    timesteps[:, : height * width] = 0
    return replace(video, timesteps=timesteps)


def alternate(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Median wall seconds of both, median wall ratio and CPU ratio, of ``repeats`` pairs after a warm-up."""
    pairs: list[list[tuple[float, float]]] = []
    for _ in range(repeats + 1):
        pair = []
        for run in (ours, theirs):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            pair.append((time.perf_counter() - wall, time.process_time() - cpu))
        pairs.append(pair)
    measured = pairs[1:]
    seconds = [statistics.median(pair[side][0] for pair in measured) for side in (0, 1)]
    ratios = [statistics.median(pair[0][clock] / pair[1][clock] for pair in measured) for clock in (0, 1)]
    return (*seconds, *ratios)


def measure(case: Case, repeats: int) -> Iterator[tuple[str, tuple[float, ...], float]]:
    """Yields (variant, result of ``alternate``, largest relative difference of the video velocities)."""
    network, peer = build(case)
    model = Runner(network)
    video, audio = streams(case)
    tables = model.rope_tables(video.positions, audio.positions)
    image = per_token(case, video)
    variants: dict[str, tuple[Callable[[], object], Modality]] = {
        "uniform": (lambda: model(video, audio), video),
        "uniform, tables cached": (lambda: model(video, audio, rope=tables), video),
        "per token, tables cached": (lambda: model(image, audio, rope=tables), image),
    }
    for name, (ours, stream) in variants.items():
        theirs = their_forward(peer, stream, audio)
        difference = float("nan")
        if stream is video:
            (a, _), (b, _) = model(video, audio), theirs()
            difference = float((a.float() - b.float()).abs().max() / b.float().abs().max())
        yield name, alternate(ours, theirs, repeats), difference


def cases() -> list[Case]:
    small = TransformerConfig(num_layers=4, heads=8, head_dim=64, audio_head_dim=32, caption_channels=256)
    gated = {"caption_projection": False, "gated_attention": True, "cross_attention_adaln": True}
    wide = replace(TransformerConfig(num_layers=1), **gated)
    f32, bf16 = torch.float32, torch.bfloat16
    return [
        Case(name="small-2.0", config=small, dtype=f32, grid=(6, 10, 25), text=128),
        Case(name="small-2.3", config=replace(small, **gated), dtype=f32, grid=(6, 10, 25), text=128),
        Case(name="wide-fp32", config=wide, dtype=f32, grid=(4, 8, 8), text=128),
        Case(name="wide-bf16", config=wide, dtype=bf16, grid=(4, 8, 8), text=128),
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--case", choices=[case.name for case in cases()], action="append", help="default: all"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| case | variant | ours s | diffusers s | wall ratio | CPU ratio | largest relative difference |")
    print("|---|---|---|---|---|---|---|")
    for case in cases():
        if args.case is not None and case.name not in args.case:
            continue
        for variant, (ours, theirs, wall, cpu), difference in measure(case, args.repeats):
            same = "differs by design" if isnan(difference) else f"{difference:.1e}"
            row = f"{ours:.3f} | {theirs:.3f} | {wall:.2f} | {cpu:.2f} | {same}"
            print(f"| {case.name} | {variant} | {row} |")


if __name__ == "__main__":
    main()
