"""The host's memory manager around a network."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn


def make_patcher(
    model: nn.Module, load_device: torch.device, offload_device: torch.device, *, dynamic: bool = True
) -> Any:
    """A ModelPatcher; ``dynamic`` allows the streaming kind where the host has turned it on.

    The host rebinds the name at start-up, so it is looked up here and not imported.
    """
    plain = comfy.model_patcher.ModelPatcher
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", plain) if dynamic else plain
    return kind(model, load_device=load_device, offload_device=offload_device)


def is_dynamic(patcher: Any) -> bool:
    """Whether weights stay in the file and stream in; older hosts have no such patcher."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def remember_dtypes(model: nn.Module) -> None:
    """Tell hosts that assign weights which dtype each parameter was built for."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(model)
