"""How well the embedded set follows held-out prompts with each sampling preset, against chance.

    python benchmarks/presets.py --clips 6 --distilled-lora LORA

Each row has the per cent of clips in which a word of the prompt is right, measured from frames and waveform,
and in brackets chance: the same clips scored against the prompts of their neighbours. ``distilled`` presets
need the distilled LoRA, by default the one in the model folders; without it they run on the weights as they
are, and the row says so. ``distilled 3`` is the second stage after the first preset at half the size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.config import transformer_config
from ltx2_core.loading import Component
from ltx2_core.run.options import STAGE2_PRESETS
from ltx2_core.sampling.guidance import stg_blocks_of
from ltx2_core.sampling.presets import LTXV, PRESETS, Preset
from ltx2_core.tiny import embedded_dir
from ltx2_core.training.world import (
    FPS,
    Agreement,
    Clip,
    Measured,
    agreement,
    measure,
    render_clip,
    sample_scene,
)
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Number, size and length of the clips of a preset."""

    clips: int
    width: int
    height: int
    frames: int


def request_of(preset: Preset, pipeline: LTX2Pipeline) -> dict[str, Any]:
    """The options of a request with this preset."""
    file = pipeline.networks.file(Component.TRANSFORMER)
    blocks = stg_blocks_of(transformer_config(file.config).num_layers, str(file.generation))
    fields = {
        "steps": preset.steps,
        "sampler": preset.sampler,
        "eta": preset.eta,
        "guidance": preset.guidance(blocks),
    }
    return fields if preset.schedule == LTXV else {**fields, "sigmas": preset.sigmas().tolist()}


def generate(name: str, pipeline: LTX2Pipeline, clips: list[Clip], s: Settings) -> tuple[list[Measured], int]:
    """Generate and measure a clip for each prompt; also returns the forward passes of one clip."""
    options: dict[str, Any] = {"width": s.width, "height": s.height, "num_frames": s.frames, "fps": FPS}
    if name in STAGE2_PRESETS:
        first, *_ = PRESETS
        options |= {**request_of(PRESETS[first], pipeline), "stages": 2}
        options |= {"width": 2 * s.width, "height": 2 * s.height}
        options["stage2_sigmas"] = PRESETS[name].sigmas().tolist()
        options["stage2_sampler"] = PRESETS[name].sampler
    else:
        options |= request_of(PRESETS[name], pipeline)
    found = []
    for seed, clip in enumerate(clips):
        generation = pipeline(clip.caption, seed=seed, **options)
        found.append(measure(torch.cat(list(generation.frames())), *generation.audio()))
    return found, sum(stage.run for stage in generation.evaluations)


def rates(measured: list[Measured], clips: list[Clip]) -> dict[str, float]:
    """Per cent of the clips in which each word of the prompt is right."""
    rows = [agreement(m, clip.truth) for m, clip in zip(measured, clips, strict=True)]
    return {word: 100 * sum(getattr(row, word) for row in rows) / len(rows) for word in Agreement._fields}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=embedded_dir(), help="model folders")
    parser.add_argument("--distilled-lora", type=Path, help="default: the one in --models")
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--clips", type=int, default=6, help="held-out prompts a preset (default 6)")
    parser.add_argument("--size", default="128x128x25", help="width x height x frames (default 128x128x25)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    width, height, frames = (int(number) for number in args.size.split("x"))
    s = Settings(clips=args.clips, width=width, height=height, frames=frames)
    clips = [
        render_clip(sample_scene(seed), frames, width, height, AUDIO_RATE, caption_seed=seed)
        for seed in range(HELD_OUT, HELD_OUT + s.clips)
    ]
    folder: Path = args.models
    lora = args.distilled_lora or next(iter(sorted(folder.glob("loras/*distilled*.safetensors"))), None)
    files: dict[str, Any] = {
        "text_encoder": next((folder / "text_encoders").iterdir()),
        "upscaler": next(iter(sorted(folder.glob("latent_upscale_models/*.safetensors"))), None),
        "keep_loaded": True,
    }
    checkpoint = sorted((folder / "checkpoints").glob("*.safetensors"))[-1]
    words = list(Agreement._fields)
    print(f"{s.clips} held-out prompts a preset, {args.size}; per cent right (chance)\n")
    print("| preset | weights | passes a clip | " + " | ".join(words) + " | s a clip |")
    print("|" + "---|" * (len(words) + 4))
    found = []
    for name in args.preset:
        distilled = name.startswith("distilled") and lora is not None
        weights = "with the distilled LoRA" if distilled else "as they are"
        pipeline = LTX2Pipeline(checkpoint, loras=[(lora, 1.0)] if distilled else [], **files)
        start = time.process_time()
        measured, passes = generate(name, pipeline, clips, s)
        seconds = (time.process_time() - start) / s.clips
        right, chance = rates(measured, clips), rates(measured, [*clips[1:], clips[0]])
        cells = " | ".join(f"{right[word]:.0f} ({chance[word]:.0f})" for word in words)
        print(f"| {name} | {weights} | {passes} | {cells} | {seconds:.1f} |", flush=True)
        found.append({"preset": name, "weights": weights, "passes": passes, "right": right, "chance": chance})
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
