"""The state of a training run as a safetensors file: tensors, and other values as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..storage.files import JsonObject
from ..storage.writing import write_tensors
from .history import History

_MODEL, _AVERAGED, _OPTIMIZER = "model/", "ema/", "optimizer/"


@dataclass(kw_only=True)
class TrainingState:
    """Everything that a training run needs to resume.

    ``averaged`` are moving averages of the parameters by name, ``step`` the number of finished steps,
    ``history`` the curves of losses and measurements.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: dict[str, Tensor]
    seed: int
    step: int = 0
    history: History = field(default_factory=History)

    def save(self, path: Path) -> None:
        """Write the state to the safetensors file ``path``, replacing an existing one whole."""
        tensors = {_MODEL + name: tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {_AVERAGED + name: tensor for name, tensor in self.averaged.items()}
        numbers: JsonObject = {}
        for index, entries in self.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                key = f"{_OPTIMIZER}{index}/{name}"
                # Optimizers hold step counts as plain numbers, which safetensors cannot store.
                if isinstance(value, Tensor):
                    tensors[key] = value
                else:
                    numbers[key] = value
        rest = {
            "step": self.step,
            "seed": self.seed,
            "numbers": numbers,
            "curves": self.history.curves,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {"training": json.dumps(rest)})

    def load(self, path: Path) -> None:
        """Load everything from ``path``; raises ValueError if the file has another seed or network."""
        with safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {}).get("training", "{}"))
        # The seed decides the order of data, so another one belongs to another run.
        if rest.get("seed") != self.seed:
            raise ValueError(
                f"{path} is not the state of this run: its seed is {rest.get('seed')}, not {self.seed}; "
                "remove it or name another file"
            )
        try:
            self.model.load_state_dict(_tensors(path, _MODEL))
        except RuntimeError as error:
            raise ValueError(f"{path} was written for another network; name another file: {error}") from error
        for name, tensor in _tensors(path, _AVERAGED).items():
            # Into the existing tensors, which may be on another device than the file's.
            self.averaged[name].copy_(tensor)
        self._load_optimizer({**_tensors(path, ""), **rest["numbers"]})
        self.history.curves = {
            name: [(int(step), float(value)) for step, value in points]
            for name, points in rest["curves"].items()
        }
        self.step = int(rest["step"])

    def _load_optimizer(self, entries: Mapping[str, Tensor | float]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor | float]] = {}
        for name, value in entries.items():
            if not name.startswith(_OPTIMIZER):
                continue
            _, index, own = name.split("/", 2)
            like = parameters[int(index)]
            if isinstance(value, Tensor) and value.shape == like.shape:
                # The memory layout of the parameter, so that updates need no copies.
                value = torch.empty_like(like, requires_grad=False).copy_(value)
            state.setdefault(int(index), {})[own] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def averaged_weights(path: str | Path) -> dict[str, Tensor]:
    """The averaged parameters in the training state ``path``, by name."""
    return _tensors(Path(path), _AVERAGED)


def load_averaged(model: nn.Module, path: str | Path) -> None:
    """Load the averaged parameters of the training state ``path`` into ``model``, if the file exists."""
    if Path(path).exists():
        copy_weights(model, averaged_weights(path))


def copy_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy ``weights``, by name, into all parameters of ``model``.

    Raises KeyError for a parameter that ``weights`` lacks; names that the model lacks are ignored.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name])


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
