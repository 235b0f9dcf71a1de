"""The budget of a run inside ComfyUI: models that it holds are no reason to say that a clip does not fit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[1] / "nodes" / "host" / "free_memory.py"


def held(device: str, loaded: int, offload: str = "cpu") -> Any:
    """A model as ComfyUI lists it, with ``loaded`` bytes on ``device``."""
    model = SimpleNamespace(offload_device=offload, loaded_size=lambda: loaded)
    return SimpleNamespace(device=device, model=model)


def budget(monkeypatch: pytest.MonkeyPatch, device: str, models: list[Any]) -> int:
    """The budget on ``device``, of which 100 bytes are free, with ``models`` loaded."""
    management = ModuleType("comfy.model_management")
    values = {
        "get_torch_device": lambda: device,
        "get_free_memory": lambda of: {device: 100}[of],
        "current_loaded_models": models,
    }
    vars(management).update(values)
    comfy = ModuleType("comfy")
    vars(comfy)["model_management"] = management
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    spec = importlib.util.spec_from_file_location("free_memory_alone", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.free_budget())


def test_what_comfyui_would_unload_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    # A model that nothing refers to any more is listed until ComfyUI cleans up.
    gone = SimpleNamespace(device="cuda:0", model=None)
    models = [held("cuda:0", 40), held("cuda:0", 7), held("cuda:1", 1000), gone]
    assert budget(monkeypatch, "cuda:0", models) == 147


def test_models_without_a_device_of_their_own_free_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget(monkeypatch, "cpu", [held("cpu", 40)]) == 100
    assert budget(monkeypatch, "cuda:0", [held("cuda:0", 40, offload="cuda:0")]) == 100
