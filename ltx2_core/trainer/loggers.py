"""Sends what a run logs to TensorBoard and Weights & Biases, beside its own log."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

_LIBRARIES = {"tensorboard": "tensorboard", "wandb": "wandb"}
LOGGERS = tuple(_LIBRARIES)


class Logger(Protocol):
    """Takes the numbers of each step."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_loggers(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown logger, and for one whose library is missing."""
    for name in names:
        if name not in _LIBRARIES:
            raise ValueError(f"log={name!r} must be one of {', '.join(LOGGERS)}")
        if find_spec(_LIBRARIES[name]) is None:
            raise ValueError(f"log={name} needs {_LIBRARIES[name]}: pip install {_LIBRARIES[name]}")


def loggers_of(
    names: Sequence[str], folder: Path, settings: Mapping[str, Any], *, step: int = 0
) -> list[Logger]:
    """Open the loggers of the run in ``folder``; ``settings`` are sent with it.

    Those of a run that is resumed after ``step`` continue its curves. Weights & Biases logs in by its own
    settings, such as WANDB_API_KEY and WANDB_PROJECT. Raises ImportError if the library of a logger is
    missing, which :func:`check_loggers` says before.
    """
    return [
        _TensorBoard(folder, step) if name == "tensorboard" else _Wandb(folder, settings) for name in names
    ]


class _TensorBoard:
    """Event files in the folder ``tensorboard`` of the run."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(
            # Steps that were logged and not saved are done again.
            str(folder / "tensorboard"),
            purge_step=step + 1,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases, found again by the path of the folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        own = folder.resolve()
        # Folders of other runs may have the same name, and not all characters of a path are allowed.
        number = hashlib.sha256(str(own).encode()).hexdigest()[:16]
        self._run: Any = wandb.init(
            id=number, name=own.name, dir=str(folder), config=dict(settings), resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
