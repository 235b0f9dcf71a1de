"""Merging a LoRA of rank 384 into all linear layers of blocks of released width, against the official code.

    python benchmarks/lora.py --blocks 3 --threads 2

Writes a random bf16 transformer and LoRA to a temporary folder, removed afterwards, and runs each case
several times in processes of its own, alternating. The official code adds the bf16 product to weights in
memory, W += strength * (B @ A). Times are processor times; ``x official`` is the ratio, below 1 is faster.
``extra layers`` is the peak of private memory above the changed weights, in units of the largest layer; pages
that mirror a file do not count. A forward pass with the LoRA over one without is measured in one process,
alternating. The exit code is 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from threading import Event, Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STRENGTH = 0.7
PREFIX = "model.diffusion_model."
CASES = {
    "official": "load, then W += strength * (B @ A) in bf16 for each layer",
    "ltx2_core": "Checkpoint.switch_loras: addmm from the file for each layer, in bf16 where that is fast",
    "ltx2_core again": "the same with another LoRA merged before",
    "official two": "two LoRAs, their products summed in bf16 and added once",
    "ltx2_core two": "two LoRAs of different strength, summed in float32",
}
TIME_LIMIT, LAYER_LIMIT, STEP_LIMIT = 1.0, 1.0, 1.02


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=3, help="transformer blocks (default 3)")
    parser.add_argument("--heads", type=int, default=32, help="32 are 4096 and 2048 wide (default)")
    parser.add_argument("--rank", type=int, default=384)
    parser.add_argument(
        "--tokens", type=int, default=256, help="video tokens of a forward pass (default 256)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="folder for the temporary files (default: the system's)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        result = measure_step(options) if options.case == "step" else measure(options)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(prefix="ltx2-lora-", dir=options.dir) as folder:
        options.dir = Path(folder)
        write_files(options)
        runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
        for _ in range(options.repeats):
            for case in CASES:
                runs[case].append(run(case, options))
        table(runs, run("step", options), options)


def write_files(options: argparse.Namespace) -> None:
    """Write a 2.3 transformer and two LoRAs on all its linear layers, with random values."""
    import torch
    from safetensors.torch import save_file

    from ltx2_core.config import TransformerConfig
    from ltx2_core.transformer import Transformer

    config = TransformerConfig(
        num_layers=options.blocks,
        heads=options.heads,
        caption_projection=False,
        gated_attention=True,
        cross_attention_adaln=True,
    )
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.02, 0.02, generator=generator)

    network = Transformer(config, device="meta", dtype=torch.bfloat16)
    state = {PREFIX + name: random(*tensor.shape) for name, tensor in network.state_dict().items()}
    save_file(state, options.dir / "transformer.safetensors")
    shapes = {name: tensor.shape for name, tensor in state.items()}
    state.clear()
    for name in ("lora", "other"):
        pairs = {}
        for key, shape in shapes.items():
            module = key.removeprefix("model.").removesuffix(".weight")
            if "transformer_blocks." in key and key.endswith(".weight") and len(shape) == 2:
                rank = min(options.rank, *shape)
                pairs[f"{module}.lora_A.weight"] = random(rank, shape[1])
                pairs[f"{module}.lora_B.weight"] = random(shape[0], rank)
        save_file(pairs, options.dir / f"{name}.safetensors")


def run(case: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--dir", str(options.dir)]
    command += ["--threads", str(options.threads), "--tokens", str(options.tokens)]
    command += ["--repeats", str(options.repeats), "--heads", str(options.heads)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measure(options: argparse.Namespace) -> dict[str, float]:
    import torch
    from safetensors import safe_open

    from ltx2_core.loading import Component, open_checkpoint, open_lora

    torch.set_num_threads(options.threads)
    torch.mm(torch.ones(64, 64).bfloat16(), torch.ones(64, 64).bfloat16())
    checkpoint = open_checkpoint(options.dir / "transformer.safetensors")
    lora = open_lora(options.dir / "lora.safetensors", STRENGTH)
    other = open_lora(options.dir / "other.safetensors", STRENGTH / 3)
    before = [other] if options.case == "ltx2_core again" else []
    after = [lora, other] if options.case.endswith("two") else [lora]
    network: Any = checkpoint.load(Component.TRANSFORMER, loras=before)
    modules = {
        name: network.get_parameter(f"{name}.weight")
        for name in lora.pairs(Component.TRANSFORMER, checkpoint.shapes(Component.TRANSFORMER))
    }
    sizes = [weight.nbytes for weight in modules.values()]
    in_memory = options.case.startswith("official")
    if in_memory:
        modules = {name: weight.clone() for name, weight in modules.items()}
    else:
        for weight in modules.values():
            weight.view(torch.uint8).flatten()[::4096].sum()
        modules = {}
    for path in {item.path for item in (lora, other)}:
        path.read_bytes()
    with watching() as watched:
        start = time.process_time()
        if in_memory:
            files = [(item, safe_open(item.path, framework="pt")) for item in after]
            with torch.no_grad():
                for name, weight in modules.items():
                    products = (
                        item.strength * (file.get_tensor(pair.b) @ file.get_tensor(pair.a))
                        for item, file in files
                        for pair in (item.layers[name],)
                    )
                    weight += reduce(add, products)
        else:
            checkpoint.switch_loras(network, Component.TRANSFORMER, before=before, after=after)
        seconds = time.process_time() - start
    new = 0 if in_memory or before else sum(sizes)
    return {
        "seconds": seconds,
        "extra": (watched.peak - new) / max(sizes),
        "layers": len(sizes),
        "changed": sum(sizes),
    }


def measure_step(options: argparse.Namespace) -> dict[str, float]:
    import torch

    from ltx2_core.conditioning.patchify import audio_positions, video_positions
    from ltx2_core.loading import Component, open_checkpoint, open_lora
    from ltx2_core.transformer import Modality

    torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(options.dir / "transformer.safetensors")
    lora = open_lora(options.dir / "lora.safetensors", STRENGTH)
    networks: list[Any] = [checkpoint.load(Component.TRANSFORMER, loras=loras) for loras in ((), (lora,))]
    config = networks[0].config

    def stream(positions: torch.Tensor, channels: int, text: int) -> Modality:
        sigma = torch.tensor([0.7])
        return Modality(
            tokens=torch.randn(1, positions.shape[2], channels).bfloat16(),
            timesteps=sigma[:, None],
            sigma=sigma,
            positions=positions,
            context=torch.randn(1, 128, text).bfloat16(),
        )

    video = stream(video_positions(options.tokens // 16, 4, 4, 24.0), config.in_channels, config.dim)
    audio = stream(audio_positions(32), config.audio_in_channels, config.audio_dim)
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(4 * options.repeats + 1):
            for network, own in zip(networks, times, strict=True):
                start = time.process_time()
                network(video, audio)
                own.append(time.process_time() - start)
    ratios = [merged / plain for plain, merged in zip(*(own[1:] for own in times), strict=True)]
    return {"plain": min(times[0]), "merged": min(times[1]), "ratio": statistics.median(ratios)}


@dataclass
class Watched:
    """Peak of private bytes above those at the start."""

    peak: int = 0
    stop: Event = field(default_factory=Event)


@contextmanager
def watching() -> Iterator[Watched]:
    import psutil

    process, watched = psutil.Process(), Watched()

    def private() -> int:
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))

    start = private()

    def watch() -> None:
        while not watched.stop.wait(0.005):
            watched.peak = max(watched.peak, private() - start)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        watched.peak = max(watched.peak, private() - start)
        watched.stop.set()
        thread.join()


def table(
    runs: dict[str, list[dict[str, float]]], step: dict[str, float], options: argparse.Namespace
) -> None:
    first = runs["official"][0]
    print(
        f"{options.blocks} blocks, {first['layers']:.0f} layers of {first['changed'] / 1e9:.2f} GB, "
        f"rank {options.rank}, {options.threads} threads\n"
    )
    print(f"{'case':<18}{'seconds':>9}{'x official':>12}{'extra layers':>14}   what")
    ours, extra = 0.0, {}
    for case, results in runs.items():
        peer = runs["official two" if case.endswith("two") else "official"]
        base = statistics.median(r["seconds"] for r in peer)
        seconds = statistics.median(r["seconds"] for r in results)
        layers = statistics.median(r["extra"] for r in results)
        print(f"{case:<18}{seconds:>9.2f}{seconds / base:>12.2f}{layers:>14.2f}   {CASES[case]}")
        if case.startswith("ltx2_core"):
            extra[case] = layers
        if case == "ltx2_core":
            ours = seconds / base
    print(
        f"\nforward pass without LoRA {step['plain']:.3f} s of CPU, with {step['merged']:.3f}: "
        f"{step['ratio']:.3f} (median of pairs)"
    )
    missed = False
    for what, value, limit in (
        ("merge time", ours, TIME_LIMIT),
        *((f"extra memory, {case}", layers, LAYER_LIMIT) for case, layers in extra.items()),
        ("step time", step["ratio"], STEP_LIMIT),
    ):
        missed |= value > limit
        print(f"{what}: {value:.2f}, limit {limit:g}: {'MISSED' if value > limit else 'met'}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
