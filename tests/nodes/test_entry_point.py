"""The entry point of the pack in hosts of other versions."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACK = Path(__file__).resolve().parents[2]


@pytest.fixture
def pack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("the_pack", PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", ["0.19.2", "0.3.64"])
def test_a_host_that_is_too_old_is_named_in_one_line(
    pack: ModuleType, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ModuleType("comfyui_version")
    host.__version__ = version
    monkeypatch.setitem(sys.modules, "comfyui_version", host)
    with pytest.raises(RuntimeError, match=rf"needs ComfyUI >= 0\.20, and this is {version}") as error:
        asyncio.run(pack.comfy_entrypoint())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["0.20.0", "0.33.0", "1.0.0", "0.34.0rc1"])
def test_hosts_from_the_oldest_on_are_taken(
    pack: ModuleType, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ModuleType("comfyui_version")
    host.__version__ = version
    monkeypatch.setitem(sys.modules, "comfyui_version", host)
    pack._check_host()
