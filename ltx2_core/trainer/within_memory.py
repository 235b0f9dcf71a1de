"""Settings of a LoRA run for the memory of a GPU: what is not written is chosen for its own clips."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..memory import parse_size
from ..shapes import SPATIAL_SCALE, TEMPORAL_SCALE
from ..training.memory_text import TrainedText
from .buckets import Bucket, parse_buckets
from .cache import Index
from .memory_choice import DECIDING, choose_for_files
from .models import open_networks
from .settings import LoraSettings, TrainSettings
from .texts import TextStage

T = TypeVar("T", bound=TrainSettings)

TRAINED: Mapping[TextStage, TrainedText] = {
    "context": "none",
    "features": "connectors",
    "states": "projection",
}
"""How far captions are encoded -> the networks of the text that a step computes then."""

_AUDIO_FPS = 24.0
"""Audio alone is planned as the smallest video of its length at this rate, which has its audio tokens."""


def settings_within(values: Mapping[str, Any], kind: type[T]) -> tuple[T, list[str]]:
    """Settings of ``values`` by name, and sentences on what ``max_memory`` chose of those that are not there.

    The choice is made for those that are there, whose memory is counted. The headers of the model files and
    the index of the dataset are read. Raises ValueError for a size that is none, for more blocks to swap than
    the transformer has, and if the clips do not fit.
    """
    settings = kind(**values)
    if not isinstance(settings, LoraSettings) or not settings.max_memory:
        return settings, []
    try:
        budget = parse_size(settings.max_memory)
    except ValueError as error:
        raise ValueError(f"max_memory: {error}") from error
    if not settings.gradient_checkpointing:
        raise ValueError("max_memory plans with gradient_checkpointing: leave one of them out")
    networks = open_networks(
        [Path(path) for path in settings.checkpoints],
        Path(settings.text_encoder) if settings.text_encoder else None,
        device="cpu",
    )
    index = Index.load(Path(settings.dataset))
    buckets = _buckets(index, settings)
    chosen, memory, fits = choose_for_files(networks, budget, buckets, TRAINED[index.text], values)
    if not fits:
        written = [name for name in DECIDING if name in values]
        by = f" with the {', '.join(written)} that is written" if written else ""
        raise ValueError(
            f"max_memory={settings.max_memory}: these clips need at least {memory}{by}: encode smaller or "
            "shorter ones (--buckets), or use a checkpoint in fp8 or of four bits"
            + (f", or leave out {' or '.join(written)}" if written else "")
        )
    told = ", ".join(f"{name} {str(value).lower()}" for name, value in chosen.items())
    return kind(**{**values, **chosen}), [
        str(memory),
        f"chosen for {settings.max_memory}: {told or 'nothing'}",
    ]


def _buckets(index: Index, settings: LoraSettings) -> tuple[Bucket, ...]:
    """The sizes of the clips, longer by the tokens of references and of other clips of a batch."""
    space, time = index.reference
    follows = settings.task in ("v2v", "av2av") or any("reference" in one for one in settings.conditions)
    found = []
    for entry in index.entries:
        bucket = Bucket(SPATIAL_SCALE, SPATIAL_SCALE, max(1, round(entry.seconds * _AUDIO_FPS)))
        if entry.bucket:
            [bucket] = parse_buckets(entry.bucket)
        latents = (bucket.frames - 1) // TEMPORAL_SCALE + 1
        if follows:
            latents += math.ceil(((latents - 1) / time + 1) / space**2)
        frames = (latents * settings.batch_size - 1) * TEMPORAL_SCALE + 1
        found.append(bucket._replace(frames=frames))
    return tuple(found)
