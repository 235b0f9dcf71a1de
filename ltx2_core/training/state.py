"""The state of a training run as a safetensors file: tensors, and other values as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..storage.files import JsonObject
from ..storage.writing import write_tensors
from .history import History
from .processes import is_split, split_like, whole

_MODEL, _AVERAGED, _OPTIMIZER, _COPIES = "model/", "ema/", "optimizer/", "copy/"


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
    copies: Mapping[str, Tensor] = field(default_factory=dict)
    """Float32 copies of parameters that the optimizer changes in their place, by name."""

    def save(self, path: Path, *, write: bool = True) -> None:
        """Write the state to the safetensors file ``path``, replacing an existing one whole.

        Of several processes all must call this, as they gather split tensors, and one has ``write``.
        """
        tensors = {_MODEL + name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        tensors |= {_AVERAGED + name: tensor for name, tensor in self.averaged.items()}
        tensors |= {_COPIES + name: tensor for name, tensor in self.copies.items()}
        numbers: JsonObject = {}
        for index, entries in self.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                # bitsandbytes puts the tensors of 8-bit states into a dictionary of their own.
                inner = value.items() if isinstance(value, dict) else [("", value)]
                for part, own in inner:
                    key = f"{_OPTIMIZER}{index}/{name}" + (f"/{part}" if part else "")
                    # Optimizers hold step counts as plain numbers, which safetensors cannot store.
                    if isinstance(own, Tensor):
                        tensors[key] = whole(own)
                    else:
                        numbers[key] = own
        if not write:
            return
        rest = {
            "step": self.step,
            "seed": self.seed,
            "numbers": numbers,
            "groups": self._groups(),
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
        present = self.model.state_dict()
        stored = {n: split_like(t, present.get(n, t)) for n, t in _tensors(path, _MODEL).items()}
        try:
            self.model.load_state_dict(stored)
        except RuntimeError as error:
            raise ValueError(f"{path} was written for another network; name another file: {error}") from error
        for name, tensor in _tensors(path, _AVERAGED).items():
            # Into the existing tensors, which may be on another device than the file's.
            self.averaged[name].copy_(tensor)
        for name, tensor in _tensors(path, _COPIES).items():
            with torch.no_grad():
                self.copies[name].copy_(tensor)
        self._load_optimizer({**_tensors(path, ""), **rest["numbers"]}, rest.get("groups", []))
        self.history.curves = {
            name: [(int(step), float(value)) for step, value in points]
            for name, points in rest["curves"].items()
        }
        self.step = int(rest["step"])

    def _groups(self) -> list[dict[str, float]]:
        """Numbers that an optimizer adds to its groups while it works, as Prodigy does its estimated rate."""
        return [
            {n: v for n, v in group.items() if isinstance(v, (int, float)) and n not in ("lr", "initial_lr")}
            for group in self.optimizer.param_groups
        ]

    def _load_optimizer(
        self, entries: Mapping[str, Tensor | float], numbers: Sequence[Mapping[str, float]]
    ) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, value in entries.items():
            if not name.startswith(_OPTIMIZER):
                continue
            _, number, own, *inner = name.split("/", 3)
            index = int(number)
            like = parameters[index]
            if isinstance(value, Tensor) and value.shape == like.shape:
                value = _placed(value, like)
            held = state.setdefault(index, {})
            if inner:
                held.setdefault(own, {})[inner[0]] = value
            else:
                held[own] = value
        groups = self.optimizer.state_dict()["param_groups"]
        for group, added in zip(groups, numbers, strict=False):
            group.update(added)
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        # torch casts every state to the number format of its parameter, also float32 averages.
        for index, entries_of in state.items():
            present = self.optimizer.state[parameters[index]]
            for own, value in entries_of.items():
                if isinstance(value, Tensor) and own in present and present[own].dtype != value.dtype:
                    present[own] = value.to(present[own].device)


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the memory layout of the parameter ``like``, so that updates need no copies."""
    if is_split(like):
        return split_like(value, like)
    return torch.empty_like(like, requires_grad=False, dtype=value.dtype).copy_(value)


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
