"""Reads the settings of a run from a configuration file and from options of the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from .settings import TrainSettings

T = TypeVar("T", bound=TrainSettings)

ELSEWHERE: Mapping[str, str] = {
    "lr": "learning_rate",
    "network_dim": "rank",
    "network_alpha": "alpha",
    "lora_rank": "rank",
    "linear": "rank",
    "target_modules": "targets",
    "scheduler_type": "schedule",
    "lr_scheduler": "schedule",
    "max_train_steps": "steps",
    "gradient_accumulation_steps": "gradient_accumulation",
    "prompts": "preview_prompts",
    "sample_prompts": "preview_prompts",
    "data_root": "dataset",
    "first_frame_conditioning_p": "conditions",
    "optimizer_type": "optimizer",
    "lora_dropout": "dropout",
    "network_dropout": "dropout",
    "network_args": "kind",
    "lora_checkpoint": "init_lora",
    "network_weights": "init_lora",
    "load_checkpoint": "init_lora",
    "pretrained_lora_path": "init_lora",
    "preset_lora_path": "preset_loras",
    "base_weights": "preset_loras",
    "num_epochs": "epochs",
    "max_train_epochs": "epochs",
    "ema_decay": "ema",
    "audio_lr": "audio_learning_rate",
    "audio_loss_multiplier": "audio_loss_weight",
    "save_every_n_steps": "save_every",
    "output_path": "output_dir",
    "enable_gradient_checkpointing": "gradient_checkpointing",
    "use_gradient_checkpointing": "gradient_checkpointing",
}
"""Names in the configurations of other trainers -> the name here."""

_PATHS = ("dataset", "validation_dataset", "checkpoints", "text_encoder", "output_dir", "init_lora")
_WITH_STRENGTH = ("preset_loras",)


def read_settings(file: Path | None, options: Mapping[str, Any], kind: type[T]) -> T:
    """Settings ``kind`` of a configuration ``file``, as :func:`read_values` reads it."""
    return kind(**read_values(file, options, kind))


def read_values(file: Path | None, options: Mapping[str, Any], kind: type[TrainSettings]) -> dict[str, Any]:
    """What a configuration ``file``, toml or json, says, with ``options`` of the command in place.

    Paths in the file are relative to it. Raises ValueError for unknown keys, with the nearest known one, and
    for values of another type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        for name, value in _parsed(file).items():
            values[name] = _converted(name, value, str(file), kind)
            if name in (*_PATHS, *_WITH_STRENGTH):
                values[name] = _beside(file.parent, values[name])
    return {**values, **options}


def setting_values(values: Mapping[str, Any], kind: type[TrainSettings]) -> dict[str, Any]:
    """``values`` of settings by name, as the types of their fields; raises ValueError for unknown names."""
    return {name: _converted(name, value, "settings", kind) for name, value in values.items()}


def _parsed(file: Path) -> Mapping[str, Any]:
    """The keys of a configuration file."""
    if not file.is_file():
        raise FileNotFoundError(f"no configuration at {file}")
    text = file.read_text(encoding="utf-8")
    try:
        parsed: Any = json.loads(text) if file.suffix.lower() == ".json" else toml_values(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{file} must hold keys and values, such as rank = 32")
    return parsed


def toml_values(text: str) -> Any:
    """Parse a toml file; raises ValueError before Python 3.11, which has no parser."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    raise ValueError("toml files need Python 3.11: write the same keys as json, in a file .json")


def _converted(name: str, value: Any, file: str, settings: type[TrainSettings]) -> Any:
    """The value of a key, as the type of its field."""
    known = {one.name: one for one in fields(settings)}
    if name not in known:
        raise ValueError(f"{file}: {unknown(name, settings)}")
    default = known[name].default
    assert default is not MISSING
    if isinstance(default, tuple):
        listed = [value] if isinstance(value, str) else value
        if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
            return tuple(listed)
        raise ValueError(f"{file}: {name} must be a list of texts")
    # A bool is an int to isinstance, and a whole number is a fine float.
    types: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, types) or (isinstance(value, bool) and not isinstance(default, bool)):
        kind = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
        raise ValueError(f"{file}: {name}={value!r} must be {kind[type(default)]}")
    return float(value) if isinstance(value, int) and isinstance(default, float) else value


def unknown(name: str, settings: type[TrainSettings]) -> str:
    """The sentence about a key that does not exist, with the nearest one that does."""
    names = [one.name for one in fields(settings)]
    if ELSEWHERE.get(name) in names:
        return f"{name} is called {ELSEWHERE[name]} here"
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"there is no key {name!r}" + (f": did you mean {near[0]}?" if near else "")


def _beside(folder: Path, value: Any) -> Any:
    """Paths relative to ``folder``; empty text stays empty."""
    if isinstance(value, tuple):
        return tuple(_beside(folder, one) for one in value)
    return str(folder / value) if value else value
