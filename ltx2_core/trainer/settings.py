"""The settings of a LoRA run: one table for the configuration file and the options of the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..training.names import TASK_NAMES
from ..training.schedules import RESTART_FLOOR, SCHEDULES
from ..training.targets import PRESETS

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
}
"""Names in the configurations of other trainers -> the name here."""

_PATHS = ("dataset", "validation_dataset", "checkpoints", "text_encoder", "output_dir", "init_lora")


def _key(default: Any, help_: str, **facts: Any) -> Any:
    """A field with its help; ``choices``, ``low`` and ``high`` bound it, ``free`` does not change weights."""
    return field(default=default, metadata={"help": help_, **facts})


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """All settings of a LoRA run, with their defaults. Raises ValueError for values out of range."""

    dataset: str = _key("", "Folder that ltx2 dataset wrote.", free=True)
    output_dir: str = _key("lora_run", "Folder of the run: weights, state, log, previews.", free=True)
    checkpoints: tuple[str, ...] = _key((), "Model files. Without any: the embedded set.", free=True)
    text_encoder: str = _key("", "Folder or file of Gemma, for previews.", free=True)
    task: str = _key("t2v", "What is generated from what.", choices=TASK_NAMES)
    conditions: tuple[str, ...] = _key(
        (), "Known content, [audio.]KIND[=VALUE][:PROBABILITY], such as first_frame:0.5 or prefix=2:0.3."
    )
    rank: int = _key(32, "Rank of each pair of matrices.", low=1, high=4096)
    alpha: float = _key(0.0, "Scale of the LoRA times rank; 0 is the rank, so a scale of 1.", low=0.0)
    targets: tuple[str, ...] = _key(
        (),
        f"Layers: presets ({', '.join(PRESETS)}), ends of names such as attn1.to_k, or regex:PATTERN "
        "[default: attention, or the preset of the only stream].",
    )
    init_lora: str = _key(
        "", "Start from this LoRA file, which must have the same layers and rank.", free=True
    )
    learning_rate: float = _key(1e-4, "Highest learning rate.", low=0.0, high=1.0)
    weight_decay: float = _key(0.01, "Weight decay of AdamW.", low=0.0, high=1.0)
    schedule: str = _key(
        "linear",
        f"How the learning rate falls; cosine_with_restarts goes to {RESTART_FLOOR:g} in each period, also "
        "from a lower rate.",
        choices=tuple(SCHEDULES),
    )
    warmup: int = _key(0, "Steps in which the learning rate rises.", low=0)
    steps: int = _key(2000, "Optimizer steps.", low=1, high=10_000_000)
    batch_size: int = _key(1, "Clips per forward pass, all of one bucket.", low=1, high=1024)
    gradient_accumulation: int = _key(1, "Forward passes per optimizer step.", low=1, high=4096)
    max_grad_norm: float = _key(1.0, "Largest norm of the gradient; 0 does not clip.", low=0.0)
    sigma_sampling: str = _key(
        "shifted_logit_normal", "How noise levels are drawn.", choices=("shifted_logit_normal", "uniform")
    )
    sigma_std: float = _key(1.0, "Spread of shifted_logit_normal.", low=0.0)
    uniform_prob: float = _key(0.1, "Share of uniform noise levels in it.", low=0.0, high=1.0)
    sigma_min: float = _key(0.0, "Lowest noise level of uniform.", low=0.0, high=1.0)
    sigma_max: float = _key(1.0, "Highest noise level of uniform.", low=0.0, high=1.0)
    shared_sigma: bool = _key(False, "Use the video's noise level for the audio too.")
    video_loss_weight: float = _key(1.0, "Weight of the video loss.", low=0.0)
    audio_loss_weight: float = _key(1.0, "Weight of the audio loss.", low=0.0)
    caption_dropout: float = _key(0.0, "How often the caption is empty.", low=0.0, high=1.0)
    gradient_checkpointing: bool = _key(True, "Compute activations again instead of holding them.")
    mixed_precision: str = _key("auto", "auto: bf16 on CUDA, else no.", choices=("auto", "bf16", "no"))
    seed: int = _key(42, "Seed of initial weights, order, noise and conditions.", low=0, high=2**63 - 1)
    official: bool = _key(
        False,
        "Officially: noise in the number format of the cache, first frames of LTX-2.5 unmarked.",
    )
    device: str = _key("", "Device [default: cuda if there is one].", free=True)
    save_every: int = _key(250, "Steps between saves; a stopped run resumes from the last.", low=1, free=True)
    keep_last: int = _key(
        0, "How many saved LoRAs stay next to the final one; 0 deletes none.", low=0, free=True
    )
    save_precision: str = _key(
        "bf16", "Number format of saved LoRAs.", choices=("bf16", "float32"), free=True
    )
    validation_every: int = _key(250, "Steps between validation losses; 0 is never.", low=0, free=True)
    validation_dataset: str = _key(
        "", "Encoded held-out clips [default: the first four clips of the dataset].", free=True
    )
    preview_prompts: tuple[str, ...] = _key((), "Prompts of previews; none makes no previews.", free=True)
    preview_every: int = _key(250, "Steps between previews; the first is before training.", low=1, free=True)
    preview_options: tuple[str, ...] = _key(
        (), "Options of previews as KEY=VALUE, by their names in Python, such as width=512.", free=True
    )
    preview_seed: int = _key(0, "Seed of the first preview; the others count on.", low=0, free=True)

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), one.metadata)
        if not self.dataset:
            raise ValueError("dataset is missing: name the folder that ltx2 dataset wrote")
        if not self.learning_rate:
            raise ValueError("learning_rate must be above 0")

    @property
    def lora_alpha(self) -> float:
        return self.alpha or float(self.rank)

    def lasting(self) -> dict[str, Any]:
        """The settings that change the weights, as JSON values: those that a resumed run must share.

        Paths of dataset, models and ``init_lora`` are not among them, since their contents are compared by
        digests.
        """
        free = {one.name for one in fields(self) if one.metadata.get("free")}
        values = {name: value for name, value in asdict(self).items() if name not in free}
        lasting: dict[str, Any] = json.loads(json.dumps(values))
        return lasting


def read_settings(file: Path | None, options: Mapping[str, Any]) -> LoraSettings:
    """Settings of a configuration ``file``, toml or json, with ``options`` of the command in their place.

    Paths in the file are relative to it. Raises ValueError for unknown keys, with the nearest known one, and
    for values of another type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        for name, value in _parsed(file).items():
            values[name] = _converted(name, value, str(file))
            if name in _PATHS:
                values[name] = _beside(file.parent, values[name])
    return LoraSettings(**{**values, **options})


def _parsed(file: Path) -> Mapping[str, Any]:
    """The keys of a configuration file."""
    if not file.is_file():
        raise FileNotFoundError(f"no configuration at {file}")
    text = file.read_text(encoding="utf-8")
    try:
        parsed: Any = json.loads(text) if file.suffix.lower() == ".json" else _toml(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{file} must hold keys and values, such as rank = 32")
    return parsed


def _toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    raise ValueError("toml files need Python 3.11: write the same keys as json, in a file .json")


def _converted(name: str, value: Any, file: str) -> Any:
    """The value of a key, as the type of its field."""
    known = {one.name: one for one in fields(LoraSettings)}
    if name not in known:
        raise ValueError(f"{file}: {unknown(name)}")
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


def unknown(name: str) -> str:
    """The sentence about a key that does not exist, with the nearest one that does."""
    if name in ELSEWHERE:
        return f"{name} is called {ELSEWHERE[name]} here"
    near = get_close_matches(name, [one.name for one in fields(LoraSettings)], n=1, cutoff=0.5)
    return f"there is no key {name!r}" + (f": did you mean {near[0]}?" if near else "")


def _beside(folder: Path, value: Any) -> Any:
    """Paths relative to ``folder``; empty text stays empty."""
    if isinstance(value, tuple):
        return tuple(_beside(folder, one) for one in value)
    return str(folder / value) if value else value


def _check(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raise ValueError if a value is none of the choices or out of range."""
    if "choices" in facts and value not in facts["choices"]:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(facts['choices'])}")
    low, high = facts.get("low"), facts.get("high")
    # Written so that NaN fails too.
    if low is not None and not (low <= value and (high is None or value <= high) and value != float("inf")):
        upper = "" if high is None else f" to {high:g}"
        raise ValueError(f"{name}={value!r} must be {'from ' if upper else 'at least '}{low:g}{upper}")
