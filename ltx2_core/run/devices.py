"""Checks whether a run can compute on a device, before anything is loaded."""

from __future__ import annotations

import torch

# Others that torch can name, such as meta, hold no values.
COMPUTING = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that hold weights and compute."""


def usable_device(name: torch.device | str) -> torch.device:
    """Return the device called ``name``; raises ValueError if this machine cannot compute on it."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"device {name!r} is unknown: use {' or '.join(available())}") from None
    if problem := _problem(device):
        raise ValueError(f"device '{device}' {problem}: use {' or '.join(available())}")
    return device


def default_device() -> str:
    """The kind of device on which a run computes if nothing is said: the first GPU there is, else "cpu"."""
    return next((kind for kind in ("cuda", "mps", "xpu") if _count(kind)), "cpu")


def available() -> tuple[str, ...]:
    """The names of all devices of this machine that can compute, such as ("cpu", "cuda", "cuda:1")."""
    found = [f"{kind}:{index}" if index else kind for kind in COMPUTING for index in range(_count(kind))]
    return tuple(found)


def _problem(device: torch.device) -> str | None:
    if device.type not in COMPUTING:
        return "computes nothing"
    count = _count(device.type)
    if count == 0:
        return "is not there: this machine, or its PyTorch, has none"
    if device.index is not None and device.index >= count:
        return f"is not there: this machine has {count}"
    return None


def _count(kind: str) -> int:
    """How many devices of ``kind``, such as "cuda", this machine has."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = torch.cuda if kind == "cuda" else getattr(torch, "xpu", None)
    return module.device_count() if module is not None and module.is_available() else 0
