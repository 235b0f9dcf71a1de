"""How well a checkpoint of the synthetic world follows its prompts and its conditioning, against chance.

    python benchmarks/semantics.py --models DIR --json semantics.json > semantics.md

Prompts and seeds are held out. All figures are measured from frames and waveforms. Each has, where that makes
sense, the value that chance gives and a target; parts whose files are missing are listed as skipped. Without
arguments the embedded set of 2.3 is measured; ``ltx2 models export DIR --generation 2.5`` writes that of 2.5.
docs/tiny-model.md has the results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import semantic_clips as clips
import semantic_networks as networks
import torch
from semantic_bench import Bench, Files, Missing, Settings
from semantic_figures import Figure, finite, table

from ltx2_core.tiny import embedded_dir

PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "video-vae": networks.video_autoencoder,
    "audio-vae": networks.audio_autoencoder,
    "text-to-video": clips.text_to_video,
    "sync": clips.audio_matches_video,
    "image-to-video": clips.image_to_video,
    "audio-to-video": clips.audio_to_video,
    "video-to-audio": clips.video_to_audio,
    "inpainting": clips.inpainting,
    "two-stages": networks.two_stages,
    "distilled": networks.distilled,
    "edges": networks.edges,
    "guidance": clips.guidance,
}


def find_files(options: argparse.Namespace) -> Files:
    """The files that options name, else those in the model folders."""
    folder: Path = options.models
    checkpoints = options.checkpoint or sorted((folder / "checkpoints").glob("*.safetensors"))[-1:]
    text = options.text_encoder or next((folder / "text_encoders").iterdir())

    def first(named: Path | None, pattern: str) -> Path | None:
        return named or next(iter(sorted(folder.glob(pattern))), None)

    return Files(
        checkpoints=tuple(checkpoints),
        text_encoder=text,
        upscaler=first(options.upscaler, "latent_upscale_models/*.safetensors"),
        distilled=first(options.distilled, "loras/*distilled*.safetensors"),
        edges=first(options.edges, "loras/*edges*.safetensors"),
        video_decoder=first(options.video_decoder, "vae/*video-vae*.safetensors"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="*", type=Path, help="checkpoint files in place of those of --models"
    )
    parser.add_argument(
        "--models", type=Path, default=embedded_dir(), help="model folders (default: embedded)"
    )
    for name in ("text-encoder", "upscaler", "distilled", "edges", "video-decoder"):
        parser.add_argument(f"--{name}", type=Path, help="default: the one in --models")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--clips", type=int, default=64, help="held-out prompts (default 64)")
    parser.add_argument("--size", default="128x128x25", help="width x height x frames (default 128x128x25)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    width, height, frames = (int(number) for number in options.size.split("x"))
    settings = Settings(
        clips=options.clips, width=width, height=height, frames=frames, steps=options.steps, cfg=options.cfg
    )
    bench = Bench(find_files(options), settings)
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    for name in options.only:
        start = time.monotonic()
        try:
            figures += PARTS[name](bench)
        except Missing as missing:
            skipped[name] = str(missing)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(table(figures, skipped))
    if options.json:
        rows = [{**finite(asdict(figure)), "met": figure.met} for figure in figures]
        result = {"settings": asdict(settings), "figures": rows, "skipped": skipped}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
