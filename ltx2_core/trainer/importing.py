"""Reads configurations of ltx-trainer, ai-toolkit and musubi-tuner as settings of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .import_tables import REASONS, TABLES, Dialect
from .settings import FullSettings, LoraSettings, TrainSettings
from .settings_file import toml_values


@dataclass(frozen=True)
class Imported:
    """A configuration of another trainer: what it is here, and what has no counterpart."""

    dialect: Dialect
    command: str
    """``lora`` or ``full``."""
    settings: Mapping[str, Any]
    dataset: Mapping[str, Any]
    """Options of ltx2 dataset; SOURCE is the folder or file of clips."""
    left: Mapping[str, str]
    """Key -> why it has no counterpart, "" if there is nothing to say."""

    def lines(self) -> Iterator[str]:
        """The settings as a toml file; commands and what is left are comments."""
        yield f"# From a configuration of {self.dialect}: ltx2 train {self.command} --config FILE"
        if self.dataset:
            options = [f"{name} {value}" for name, value in self.dataset.items() if name != "SOURCE"]
            source = self.dataset.get("SOURCE", "CLIPS")
            yield f"# Encode the clips first: ltx2 dataset {' '.join([str(source), '--out cache', *options])}"
        for name, value in {"dataset": "cache", **self.settings}.items():
            yield f"{name} = {_toml(value)}"
        if self.left:
            yield "# Without a counterpart:"
            for name, why in self.left.items():
                yield f"#   {name}" + (f": {why}" if why else "")


def import_config(path: Path) -> Imported:
    """Read ``path``, yaml, toml or json; nothing is written.

    Raises ValueError for a file that is none of these, of none of the trainers, or with values that no run
    here can have.
    """
    values = _parsed(path)
    dialect, own = _dialect(path, values)
    model = values.get("model")
    full = isinstance(model, dict) and model.get("training_mode") == "full"
    kind: type[TrainSettings] = FullSettings if full else LoraSettings
    settings: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    left: dict[str, str] = {}
    table = TABLES[dialect]
    for name, value in _flat(own, table):
        key = table.get(name)
        if value is None or value == "":
            continue
        if key is None:
            left[name] = next((why for known, why in REASONS.items() if name.startswith(known)), "")
        elif key.name == "SOURCE" or key.name.startswith("--"):
            dataset[key.name] = key.convert(value)
        elif key.name not in kind.__dataclass_fields__:
            left[name] = f"{key.name} is a setting of ltx2 train lora alone"
        else:
            try:
                settings[key.name] = key.convert(value)
            except (TypeError, ValueError):
                raise ValueError(f"{path}: {name}={value!r} is not what {dialect} takes there") from None
    checked: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()}
    kind(**{"dataset": "cache", **checked})
    return Imported(dialect, "full" if full else "lora", settings, dataset, left)


def _dialect(path: Path, values: Mapping[str, Any]) -> tuple[Dialect, Mapping[str, Any]]:
    """Which trainer a configuration is of, and the part of it that its table describes."""
    config = values.get("config")
    if isinstance(config, dict) and isinstance(config.get("process"), list) and config["process"]:
        process = config["process"][0]
        if isinstance(process, dict):
            return "ai-toolkit", process
    if "training_strategy" in values or "optimization" in values:
        return "ltx-trainer", values
    if {"network_dim", "ltx2_checkpoint", "network_module", "datasets"} & values.keys():
        return "musubi", values
    raise ValueError(
        f"{path} is no configuration of ltx-trainer (training_strategy, optimization), ai-toolkit (config: "
        "process:) or musubi-tuner (network_dim, [[datasets]])"
    )


def _flat(values: Any, table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path with dots, value); a list of the table is a value, another one is entered."""
    items: Any = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        path = f"{prefix}{name}"
        objects = isinstance(value, list) and any(isinstance(one, Mapping) for one in value)
        if (isinstance(value, Mapping) or objects) and path not in table:
            yield from _flat(value, table, f"{path}.")
        else:
            yield path, value


def _parsed(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}")
    text, suffix = path.read_text(encoding="utf-8"), path.suffix.lower()
    if suffix not in (".yaml", ".yml", ".toml", ".json"):
        raise ValueError(f"{path} must be a yaml, toml or json file")
    try:
        values = (
            toml_values(text) if suffix == ".toml" else json.loads(text) if suffix == ".json" else _yaml(text)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values")
    return values


def _yaml(text: str) -> Any:
    # transformers needs it too, so that it is always installed.
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not yaml: {' '.join(str(error).split())}") from error


def _toml(value: Any) -> str:
    """A value in toml, which for these types is as in JSON."""
    return json.dumps(value, ensure_ascii=False)
