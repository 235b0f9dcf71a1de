"""The host's memory manager around a network."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP
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


def forget_tables_when_idle(patcher: Any) -> None:
    """Let go of rotary tables after a sampling and when the model is unloaded: the host knows not of them."""

    def forget(patcher: Any, *how: Any) -> None:
        patcher.model.diffusion_model.rope_memory.clear()

    for event in (CallbacksMP.ON_CLEANUP, CallbacksMP.ON_DETACH):
        patcher.add_callback_with_key(event, "ltx2_rope", forget)


def remember_dtypes(model: nn.Module) -> None:
    """Tell hosts that assign weights which dtype each parameter was built for."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(model)
