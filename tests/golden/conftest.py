"""Finds reference fixtures and hands them to the tests of their kind.

``LTX2_GOLDEN_DIR`` names one folder or several, separated as in PATH; without it the shared folder next to
the checkout is taken if it is there, else the small copies in ``tests/golden/data``. A fixture is recognised
by its metadata and tensor names, never by its own name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).resolve().parent


SHARED = ("golden", "golden_ltx25", "golden_training", "golden_ltxv")
"""Folders of fixtures next to the checkout."""


def golden_dirs() -> list[Path]:
    if named := os.environ.get("LTX2_GOLDEN_DIR"):
        return [Path(folder).expanduser() for folder in named.split(os.pathsep) if folder]
    return shared_dirs() or [HERE / "data"]


def shared_dirs() -> list[Path]:
    """The folders of fixtures next to the checkout that are there."""
    shared = HERE.parents[2] / "shared"
    return [shared / name for name in SHARED if (shared / name).is_dir()]


@dataclass(frozen=True)
class Golden:
    """One fixture file; ``sidecar`` is the JSON of the same name, empty if there is none."""

    path: Path

    @cached_property
    def _header(self) -> tuple[dict[str, Any], frozenset[str]]:
        with safe_open(self.path, "pt") as file:
            metadata: dict[str, Any] = {}
            for key, text in (file.metadata() or {}).items():
                try:
                    metadata[key] = json.loads(text)
                except json.JSONDecodeError:
                    metadata[key] = text
            return metadata, frozenset(file.keys())

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def metadata(self) -> dict[str, Any]:
        return self._header[0]

    @property
    def names(self) -> frozenset[str]:
        return self._header[1]

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        path = self.path.with_suffix(".json")
        return json.loads(path.read_text()) if path.is_file() else {}

    @property
    def config(self) -> dict[str, Any]:
        return self.metadata.get("config") or self.sidecar.get("config") or {}

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def has(self, *names: str) -> bool:
        return all(name in self.names for name in names)

    def any(self, test: Callable[[str], bool]) -> bool:
        return any(test(name) for name in self.names)

    def sibling(self, name: str) -> Golden:
        """The fixture ``name`` of its folder, of the folder ``golden`` beside it, or of any other."""
        return Golden(self._found(Path(f"{name}.safetensors")))

    def model(self, name: str) -> Path:
        """The file of the model ``name`` in ``models`` of the fixture's folder, or of another folder."""
        return self._found(Path("models", f"{name}.safetensors"))

    def _found(self, file: Path) -> Path:
        own = self.path.parent
        places = [own / file, own.parent / "golden" / file]
        # Fixtures may come without the weights that others of their folder hold.
        for folder in (*golden_dirs(), *shared_dirs(), HERE / "data"):
            places += sorted(folder.rglob(str(file)))
        return next((place for place in places if place.is_file()), places[0])

    def beside(self) -> list[Golden]:
        """The fixtures of the same folder, then those of the other folders."""
        folders = [self.path.parent, *golden_dirs(), *shared_dirs()]
        return [Golden(path) for folder in folders for path in sorted(folder.glob("*.safetensors"))]

    def source(self, role: str) -> Golden:
        """The fixture that the sidecar names as ``role`` (``weights``, ``inputs_from``), else this one."""
        name = self.sidecar.get(role)
        return self if name in (None, self.name) else self.sibling(name)


def _is_dit(g: Golden) -> bool:
    outputs = [n for n in g.names if n.startswith("out/")]
    streams = any("video" in n or "audio" in n for n in outputs)
    apart = g.has("out/video_context") or g.has("in/sigmas") or g.has("in/video_state_latent")
    return streams and "case" not in g.metadata and not apart


def _holds(g: Golden, *prefixes: str) -> bool:
    return all(g.any(lambda n, p=prefix: n.startswith(p)) for prefix in prefixes)


def _is_ltxv(g: Golden) -> bool:
    """Whether a fixture is of LTX-Video: its case names a model of that family, or it is one itself."""
    case = g.metadata.get("case")
    return isinstance(case, dict) and "ltxv" in (str(case.get("model")) + g.name)


KINDS: dict[str, Callable[[Golden], bool]] = {
    "core": lambda g: not _is_ltxv(g) and "case" in g.metadata and g.has("in/sigmas"),
    "core_decode": lambda g: "case" in g.metadata and g.has("out/frames"),
    "core_model": lambda g: (
        not g.any(lambda n: n.startswith(("golden.", "in/", "out/"))) and g.path.parent.name == "models"
    ),
    "ltxv_dit": lambda g: _is_ltxv(g) and g.has("out/velocity"),
    "ltxv_vae": lambda g: _is_ltxv(g) and g.any(lambda n: n.startswith("golden.")),
    "ltxv_pipe": lambda g: _is_ltxv(g) and g.has("in/noise0"),
    "ltxv_core": lambda g: _is_ltxv(g) and g.has("in/sigmas"),
    "t5": lambda g: g.has("shared.weight", "in/ids", "out/states"),
    "rope": lambda g: g.any(lambda n: n.startswith("freq_grid/")),
    "text_connectors": lambda g: g.has("out/video_context"),
    "text_gemma": lambda g: g.has("in/input_ids"),
    "text_quant": lambda g: (
        g.any(lambda n: n.startswith("out/"))
        and g.any(lambda n: n.endswith((".weight_scale", ".scale_weight")))
    ),
    "training_sigmas": lambda g: _holds(g, "sigma/", "draws/"),
    "training_steps": lambda g: g.any(lambda n: "/out_lora/" in n or "/out_full/" in n),
    "training_run": lambda g: _holds(g, "micro/", "data/", "final/"),
    "training_data": lambda g: _holds(g, "pixels/", "mask/", "downmix/"),
    "training_other_tools": lambda g: g.any(lambda n: n.startswith("diffsynth/")),
    "training_lora": lambda g: (
        "target_modules" in g.sidecar
        and all(n.endswith((".lora_A.weight", ".lora_B.weight")) for n in g.names)
    ),
    "dit": _is_dit,
    "keyframe_slots": lambda g: g.has("in/video_state_latent"),
    "trajectory": lambda g: g.has("in/sigmas", "in/video_start"),
    "core_velocities": lambda g: all(re.fullmatch(r"(?!in/|out/)[^/]+/(video|audio)", n) for n in g.names),
    "duration_head": lambda g: g.any(lambda n: n.startswith("duration_head.")),
    "dit_weights": lambda g: (
        g.has("model.diffusion_model.patchify_proj.weight")
        and not g.any(lambda n: n.startswith(("in/", "out/", "vae.")))
    ),
    "numbers_ltx25": lambda g: g.has("golden.logc3.code", "golden.dub.tokens"),
    "mel": lambda g: g.has("golden.mel", "golden.waveform"),
    "audio_vae": lambda g: _holds(g, "audio_vae.", "golden."),
    "vocoder": lambda g: _holds(g, "vocoder.", "golden."),
    "video_vae": lambda g: _holds(g, "vae.", "golden."),
    "diffusion_vae": lambda g: _holds(g, "decoder.conv_in_x_t.", "golden."),
    "upsampler": lambda g: g.has("initial_conv.weight", "golden.stats.mean"),
}


@cache
def kinds_of(golden: Golden) -> list[str]:
    return [kind for kind, test in KINDS.items() if test(golden)]


@cache
def all_goldens() -> list[Golden]:
    """Every fixture; read once, not by each test that asks for some of them."""
    return [Golden(path) for folder in golden_dirs() for path in sorted(folder.rglob("*.safetensors"))]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(*kinds): runs once per reference fixture of these kinds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    kinds = marker.args
    found = [g for g in all_goldens() if "*" in kinds or {*kinds} & {*kinds_of(g)}]
    if found:
        metafunc.parametrize("golden", found, ids=lambda g: g.name)
    else:
        folders = ", ".join(f"{folder.name}/" for folder in golden_dirs())
        reason = f"no {' or '.join(kinds)} fixture in {folders}; set LTX2_GOLDEN_DIR"
        metafunc.parametrize("golden", [pytest.param(None, marks=pytest.mark.skip(reason=reason))])
