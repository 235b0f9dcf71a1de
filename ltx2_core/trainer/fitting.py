"""Checks that settings, dataset and model files fit, by the headers of the files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open

from ..loading import Checkpoint, Component, open_lora
from ..run.components import Components
from ..training.lora import saved_name
from ..training.objective import Objective
from ..training.targets import is_of_text, layer_pattern, reachable
from .cache import is_whole
from .samples import Samples
from .settings import FullSettings, LoraSettings
from .texts import text_shapes

_MOST = 5


def target_layers(
    networks: Components, targets: Sequence[str], *, video: bool, audio: bool
) -> tuple[str, ...]:
    """The linear layers that ``targets`` name and that get a gradient when these streams are computed.

    They are of the transformer, and of connectors and projection if a target names these; by official name.
    Without ``targets`` they are those of the preset for the streams. Headers alone are read. Raises
    ValueError for a damaged pattern, and if there is no such layer.
    """
    preset = "attention" if video and audio else "video" if video else "audio"
    pattern = layer_pattern(targets or (preset,))
    shapes = networks.file(Component.TRANSFORMER).shapes(Component.TRANSFORMER)
    names = [name for name in _linear(shapes) if re.search(pattern, name)]
    of_text = [target for target in targets if is_of_text(target)]
    if of_text:
        pattern = layer_pattern(of_text)
        names += [name for name in _linear(text_shapes(networks)) if re.search(pattern, name)]
    if not names:
        raise ValueError(f"targets={', '.join(targets)}: the transformer has no such linear layer")
    reached = tuple(name for name in names if reachable(name, video=video, audio=audio))
    if not reached:
        raise ValueError(
            f"targets={', '.join(targets)}: none of these layers takes part, as no clip has the stream that "
            "they belong to"
        )
    return reached


def _linear(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names of linear layers among tensors."""
    return [n.removesuffix(".weight") for n, s in shapes.items() if n.endswith(".weight") and len(s) == 2]


def check_clips(samples: Samples) -> None:
    """Raise ValueError if files of clips are missing or cut, or lack what the conditions of the task need."""
    problems = list(_problems(samples))
    if problems:
        more = f"\n... and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise ValueError("\n".join(problems[:_MOST]) + more)


def check_init_lora(path: Path, layers: Sequence[str], settings: LoraSettings) -> None:
    """Raise ValueError if ``path`` is no LoRA file, or lacks one of ``layers``, or has another rank there."""
    if not path.is_file():
        raise ValueError(f"init_lora: no file at {path}")
    open_lora(path)
    # The matrix that has the rank as its first axis, and what else a layer of the kind has.
    first, others = {
        "lora": ("lora_A.weight", ("lora_B.weight",)),
        "dora": ("lora_A.weight", ("lora_B.weight", "dora_scale")),
        "lokr": ("lokr_w2_b", ("lokr_w1", "lokr_w2_a")),
    }[settings.kind]
    with safe_open(path, framework="pt") as file:
        present = set(file.keys())
        for layer in layers:
            saved = saved_name(layer)
            name = f"{saved}.{first}"
            needed = {name, *(f"{saved}.{other}" for other in others)}
            if not needed <= present or file.get_slice(name).get_shape()[0] != settings.rank:
                raise ValueError(
                    f"init_lora: {path} has no layer {layer} of rank {settings.rank} and kind "
                    f"{settings.kind}; ltx2 lora resize changes a rank"
                )


def check_parameters(base: Checkpoint, settings: FullSettings) -> None:
    """Raise ValueError if the transformer is quantised, or ``parameters`` names nothing in it."""
    infos = base.infos(Component.TRANSFORMER)
    # Bytes are marks of layers whose weights are in another format too.
    stored = sorted({info.dtype for info in infos.values()} - {"BF16", "F16", "F32", "F64", "U8"})
    if stored:
        raise ValueError(
            f"{base.path} holds weights in {', '.join(stored)}, which cannot be trained: use the file in "
            "bfloat16, or train a LoRA"
        )
    for pattern in settings.parameters:
        try:
            found = any(re.search(pattern, name) for name in infos)
        except re.error as error:
            raise ValueError(f"parameters {pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise ValueError(f"parameters={pattern}: the transformer has no such parameter")


def _problems(samples: Samples) -> Iterator[str]:
    for objective, entries in samples.by_objective():
        needed = _needed(objective)
        for entry in {entry.file: entry for entry in entries}.values():
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
            needed.add(f"{name}_mask")
    return needed
