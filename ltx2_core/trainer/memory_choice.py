"""Chooses the settings of a LoRA run that decide its memory, for the user's own model files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import TransformerConfig, text_config, transformer_config
from ..loading import Component
from ..run.components import Components
from ..run.network_sizes import NetworkSizes
from ..shapes import ClipPlan, plan_clip
from ..training.memory_plan import TrainingMemory, choose_training
from ..training.memory_text import STATES, TextMemory, TrainedText, text_memory
from .buckets import Bucket

PLAIN = {"BF16", "F16", "F32", "F64"}
"""Number formats of weights that are not decoded while a layer runs."""
DECIDING = {
    "rank": "rank",
    "optimizer": "optimizer",
    "blocks_to_swap": "blocks_to_swap",
    "activation_offload": "offload",
}
"""Settings of a run that decide its memory -> their fields in a choice."""


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """The configuration of the transformer in a file, and the bytes of its weights and of one block."""

    transformer: TransformerConfig
    transformer_weights: int
    block_weights: int


def transformer_size(networks: NetworkSizes) -> tuple[FileSize, bool]:
    """The sizes of the transformer in the files of ``networks``, and whether its blocks are quantised.

    Headers alone are read.
    """
    file = networks.file(Component.TRANSFORMER)
    config = transformer_config(file.config)
    infos = file.infos(Component.TRANSFORMER)
    stored = {info.dtype for name, info in infos.items() if "transformer_blocks." in name}
    blocks = networks.component_bytes(Component.TRANSFORMER, within="transformer_blocks.")
    size = FileSize(
        transformer=config,
        transformer_weights=networks.component_bytes(Component.TRANSFORMER),
        block_weights=blocks // config.num_layers,
    )
    return size, bool(stored - PLAIN)


def text_of_files(networks: NetworkSizes, trained: TrainedText) -> TextMemory:
    """What text networks of the files add to a step if a LoRA is trained on them; headers alone are read."""
    if trained == "none":
        return TextMemory()
    file = networks.file(Component.TEXT_CONNECTORS)
    states = STATES
    if trained == "projection":
        shapes = networks.file(Component.TEXT_PROJECTION).shapes(Component.TEXT_PROJECTION)
        states = max(shape[-1] for shape in shapes.values())
    return text_memory(text_config(file.config), trained, states=states)


def clip_of(buckets: tuple[Bucket, ...], fps: float = 24.0) -> ClipPlan:
    """The clip of the bucket that needs most memory."""
    largest = max(buckets, key=lambda bucket: bucket.width * bucket.height * bucket.frames)
    return plan_clip(largest.width, largest.height, frames=largest.frames, fps=fps)


def choose_for_files(
    networks: Components,
    budget: int,
    buckets: tuple[Bucket, ...],
    trained: TrainedText,
    written: Mapping[str, Any],
) -> tuple[dict[str, Any], TrainingMemory, bool]:
    """The fastest settings with which these files train within ``budget`` bytes, as ``ltx2 plan --train``.

    ``trained`` are the networks of the text that the run trains too. Of :data:`DECIDING`, settings that
    ``written`` has by name stay, and their memory is counted. Returns the others by name, the memory of all,
    and whether they do fit.
    """
    size, quantised = transformer_size(networks)
    fixed = {field: written[name] for name, field in DECIDING.items() if name in written}
    choice, memory, fits = choose_training(
        budget,
        size,
        clip_of(buckets),
        quantised=quantised,
        text=text_of_files(networks, trained),
        fixed=fixed,
    )
    chosen = {name: getattr(choice, field) for name, field in DECIDING.items() if name not in written}
    return chosen, memory, fits
