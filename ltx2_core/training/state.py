"""The state of a training run as one safetensors file: tensors, and everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..media.atomic import replacing
from .history import History

_MODEL, _AVERAGED, _OPTIMIZER = "model/", "ema/", "optimizer/"


@dataclass(kw_only=True)
class TrainingState:
    """All that a run needs to go on; ``averaged`` follows the model's parameters."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: dict[str, Tensor]
    seed: int
    step: int = 0
    history: History = field(default_factory=History)

    def save(self, path: Path) -> None:
        """Write the file anew and put it in place whole."""
        tensors = {_MODEL + name: tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {_AVERAGED + name: tensor for name, tensor in self.averaged.items()}
        numbers: dict[str, Any] = {}
        for index, entries in self.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                kept = tensors if isinstance(value, Tensor) else numbers
                kept[f"{_OPTIMIZER}{index}/{name}"] = value
        rest = {
            "step": self.step,
            "seed": self.seed,
            "numbers": numbers,
            "curves": self.history.curves,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata={"training": json.dumps(rest)},
            )

    def load(self, path: Path) -> None:
        """Take everything from ``path``. Raises ValueError where it is the state of another run."""
        with safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {}).get("training", "{}"))
        if rest.get("seed") != self.seed:
            raise ValueError(
                f"{path} is no state of this run: its seed is {rest.get('seed')}, not {self.seed}; remove it "
                "or name another file"
            )
        try:
            self.model.load_state_dict(_tensors(path, _MODEL))
        except RuntimeError as error:
            raise ValueError(f"{path} was written for another network; name another file: {error}") from error
        for name, tensor in _tensors(path, _AVERAGED).items():
            self.averaged[name].copy_(tensor)
        self._load_optimizer({**_tensors(path, ""), **rest["numbers"]})
        self.history.curves = {
            name: [(int(step), float(value)) for step, value in points]
            for name, points in rest["curves"].items()
        }
        self.step = int(rest["step"])

    def _load_optimizer(self, entries: Mapping[str, Any]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, value in entries.items():
            if not name.startswith(_OPTIMIZER):
                continue
            _, index, own = name.split("/", 2)
            like = parameters[int(index)]
            if isinstance(value, Tensor) and value.shape == like.shape:
                # In the parameter's memory layout, so that updates need no copies.
                value = torch.empty_like(like, requires_grad=False).copy_(value)
            state.setdefault(int(index), {})[own] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def averaged_weights(path: str | Path) -> dict[str, Tensor]:
    """The averaged parameters of a state file, by name."""
    return _tensors(Path(path), _AVERAGED)


def load_averaged(model: nn.Module, path: str | Path) -> None:
    """Give ``model`` the averaged parameters of a state file; a run that never saved one leaves it alone."""
    if Path(path).exists():
        copy_weights(model, averaged_weights(path))


def copy_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite the parameters of ``model``, in place."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name])


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
