"""Checks that a text encoder is the one with which a checkpoint was trained, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import transformer_config
from ..text.gemma import find_encoder
from ..text.t5 import T5_NAMES, find_t5, is_t5
from .checkpoint import Checkpoint, find_component
from .detect import Component


def check_text_encoder(checkpoints: Sequence[Checkpoint], text_encoder: Path) -> None:
    """Raise ValueError if ``checkpoints`` were trained with another encoder than that at ``text_encoder``.

    Only headers are read. LTX-Video was trained with T5. Gemma 3 12B and Gemma 4 12B have the same widths, so
    comparing shapes is not enough: their generation is compared, and for LTX-2.5 also the version of its
    fine-tuned Gemma.
    """
    checkpoint = _trained_with(checkpoints)
    if checkpoint.generation == "0.9":
        _check_t5(checkpoint, text_encoder)
        return
    config, _, metadata = find_encoder(text_encoder)
    gemma = 4 if "gemma4" in str(config.get("model_type")) else 3
    required = _required_gemma(checkpoint)
    if checkpoint.generation is not None and gemma != required:
        raise ValueError(
            f"{_MISMATCH}{text_encoder} is a Gemma {gemma}, "
            f"LTX-{checkpoint.generation} ({checkpoint.path}) was trained with a Gemma {required}. "
            f"Use {_FILES[required]}"
        )
    version = _version(metadata.get("gemma_config"))
    source = _version(checkpoint.metadata.get("gemma_source_checkpoint"))
    # Only files that state a version are compared, since repackaged ones often do not.
    if version and source and version != source:
        raise ValueError(
            f"{_MISMATCH}{text_encoder} is gemma_version {version}, "
            f"{checkpoint.path} was trained with {source}. Use both from the same release"
        )
    states, hidden = int(config.get("num_hidden_layers", 0)) + 1, int(config.get("hidden_size", 0))
    projection = find_component(checkpoints, Component.TEXT_PROJECTION)
    widths = {s[-1] for n, s in projection.shapes(Component.TEXT_PROJECTION).items() if n.endswith(".weight")}
    if hidden and widths != {states * hidden}:
        raise ValueError(
            f"{_MISMATCH}{text_encoder} gives {states} hidden states of width {hidden}, "
            f"{states * hidden} values; the text projection of {projection.path} takes "
            f"{', '.join(map(str, sorted(widths)))}. Use {_FILES[required]}"
        )


def text_encoder_files(checkpoints: Sequence[Checkpoint]) -> str:
    """Return the names of the text encoder files with which ``checkpoints`` were trained, for messages."""
    checkpoint = _trained_with(checkpoints)
    return T5_NAMES if checkpoint.generation == "0.9" else _FILES[_required_gemma(checkpoint)]


def _check_t5(checkpoint: Checkpoint, text_encoder: Path) -> None:
    """Raise ValueError unless the encoder is a T5 of the width that the transformer of LTX-Video takes."""
    if not is_t5(text_encoder):
        raise ValueError(
            f"{_MISMATCH}LTX-Video ({checkpoint.path}) was trained with T5, and {text_encoder} is none. Use "
            f"{T5_NAMES}"
        )
    width = find_t5(text_encoder)[0]["d_model"]
    taken = transformer_config(checkpoint.config).caption_channels
    if width != taken:
        raise ValueError(
            f"{_MISMATCH}{text_encoder} is a T5 of width {width}, {checkpoint.path} takes {taken}. Use "
            f"{T5_NAMES}"
        )


def _trained_with(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The file that decides which text encoder fits: that of the transformer, else of the projection."""
    transformers = [c for c in checkpoints if Component.TRANSFORMER in c.components]
    return transformers[0] if transformers else find_component(checkpoints, Component.TEXT_PROJECTION)


def _required_gemma(checkpoint: Checkpoint) -> int:
    """The generation of Gemma with which ``checkpoint`` was trained: 3, or 4 for LTX-2.5."""
    return 4 if checkpoint.generation == "2.5" else 3


_MISMATCH = "text encoder and checkpoint do not belong together: "

_FILES: Mapping[int, str] = {
    3: "gemma_3_12B_it (bf16, fp8_scaled or fp4_mixed) or the Hugging Face folder of Gemma 3 12B",
    4: "the Gemma 4 file of LTX-2.5, gemma4-12b-with-proj-ltx-2.5-bf16",
}


def _version(stated: Any) -> str | None:
    value = stated.get("gemma_version") if isinstance(stated, Mapping) else None
    return None if value is None else str(value)
