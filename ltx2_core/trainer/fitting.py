"""Checks that settings, dataset and model files fit, by the headers of the files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open

from ..loading import open_lora
from ..training.lora import PREFIX
from ..training.objective import Objective
from ..training.targets import layer_pattern, reachable
from .cache import is_whole
from .samples import Samples

_MOST = 5


def target_layers(
    shapes: Mapping[str, tuple[int, ...]], targets: Sequence[str], *, video: bool, audio: bool
) -> tuple[str, ...]:
    """The linear layers that ``targets`` name and that get a gradient when these streams are computed.

    ``shapes`` are those of the tensors of the transformer, by name. Without ``targets`` they are those of the
    preset for the streams. Raises ValueError for a damaged pattern, and if there is no such layer.
    """
    preset = "attention" if video and audio else "video" if video else "audio"
    pattern = layer_pattern(targets or (preset,))
    linear = [n.removesuffix(".weight") for n, s in shapes.items() if n.endswith(".weight") and len(s) == 2]
    names = [name for name in linear if re.search(pattern, name)]
    if not names:
        raise ValueError(f"targets={', '.join(targets)}: the transformer has no such linear layer")
    reached = tuple(name for name in names if reachable(name, video=video, audio=audio))
    if not reached:
        raise ValueError(
            f"targets={', '.join(targets)}: none of these layers takes part, as no clip has the stream that "
            "they belong to"
        )
    return reached


def check_clips(samples: Samples) -> None:
    """Raise ValueError if files of clips are missing or cut, or lack what the conditions of the task need."""
    problems = list(_problems(samples))
    if problems:
        more = f"\n... and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise ValueError("\n".join(problems[:_MOST]) + more)


def check_init_lora(path: Path, layers: Sequence[str], rank: int) -> None:
    """Raise ValueError if ``path`` is no LoRA file, or lacks one of ``layers``, or has another rank there."""
    if not path.is_file():
        raise ValueError(f"init_lora: no file at {path}")
    open_lora(path)
    with safe_open(path, framework="pt") as file:
        present = set(file.keys())
        for layer in layers:
            name = f"{PREFIX}{layer}.lora_A.weight"
            if name not in present or file.get_slice(name).get_shape()[0] != rank:
                raise ValueError(f"init_lora: {path} has no layer {layer} of rank {rank}")


def _problems(samples: Samples) -> Iterator[str]:
    for objective, entries in samples.by_objective():
        needed = _needed(objective)
        for entry in entries:
            damaged = [n for n in (entry.file, *entry.texts) if not is_whole(samples.folder / n)]
            if damaged:
                yield f"{samples.folder / damaged[0]} is missing or cut short: run ltx2 dataset again"
                continue
            with safe_open(samples.folder / entry.file, framework="pt") as file:
                lacking = needed - {*file.keys()}
            for name in sorted(lacking):
                yield (
                    f"{entry.where}: it has no {name}, which the task or a condition needs: add it to the "
                    "dataset and run ltx2 dataset again"
                )


def _needed(objective: Objective) -> set[str]:
    """The latents that conditions of ``objective`` need of each clip, by their names in its file."""
    needed = set()
    for name, stream in (("video", objective.video), ("audio", objective.audio)):
        if stream is None:
            continue
        if stream.references:
            needed.add(f"reference_{name}")
        if any(condition.kind == "mask" for condition in stream.intrinsic):
            if name == "audio":
                raise ValueError("condition audio.mask: a dataset has masks of video alone")
            needed.add("video_mask")
    return needed
