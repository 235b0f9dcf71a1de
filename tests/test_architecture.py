"""The layers import one way, the library does not depend on ComfyUI, and weights are never unpickled."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "ltx2_core"
HOST = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

# Lowest first; a file of a row imports files of its own row and of those below. The longest name that fits
# a file says its row, so one file of a room may stand elsewhere than the room.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "shapes",
        "types",
        "attention",
        "clock",
        "formats",
        "out_of_memory",
        "precision",
        "torchaudio_import",
        "config",
        "storage",
        "media",
        "kernels",
    ),
    ("transformer", "video_vae", "audio", "text", "upsampler", "latent_filters"),
    ("sampling", "conditioning", "loading", "memory", "tiny"),
    # The trainer imports nothing of the world or of the tiny set that is trained on it.
    ("training",),
    ("training.world",),
    ("training.autoencoders",),
    ("training.tiny",),
    ("run", "released"),
    ("editing",),
    ("run.pipeline",),
    # The trainer of users shows previews by the pipeline.
    ("trainer",),
    ("cli", "serve"),
    ("__init__", "__main__", "version"),
)
FILES = sorted(CORE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name_of(path))


def absolute_imports(path: Path) -> set[str]:
    """The top-level packages that a file imports by name."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def module_of(path: Path) -> str:
    """``sampling/noise.py`` is ``sampling.noise``, ``sampling/__init__.py`` is ``sampling``."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """The files of ltx2_core that a file imports relatively, for types too."""
    package = path.relative_to(CORE).parent.parts
    found = set()
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        assert node.level <= len(package) + 1, f"{name_of(path)} imports from outside ltx2_core"
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        name = ".".join(filter(None, base))
        for alias in node.names:
            inner = f"{name}.{alias.name}" if name else alias.name
            found.add(inner if inner in MODULES else name or "__init__")
    return frozenset(found)


@cache
def row_of(module: str) -> int | None:
    names = module.split(".")
    for length in range(len(names), 0, -1):
        for row, parts in enumerate(LAYERS):
            if ".".join(names[:length]) in parts:
                return row
    return None


def test_the_library_never_imports_the_host_or_itself_by_name():
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in FILES
        for name in sorted(absolute_imports(path) & (HOST | {"ltx2_core"}))
    ]
    assert not wrong, "ltx2_core runs without ComfyUI, and imports itself relatively"


def test_every_file_imports_from_its_own_row_or_below():
    assert not [module for module in MODULES if row_of(module) is None], "give it a row of LAYERS"
    upward = [
        f"{name_of(path)} imports {other}"
        for module, path in MODULES.items()
        for other in sorted(imported_modules(path))
        if row_of(other) > row_of(module)
    ]
    assert not upward


def test_no_files_import_each_other_in_a_circle():
    waiting = {module: set(imported_modules(path)) & set(MODULES) for module, path in MODULES.items()}
    while free := [module for module, others in waiting.items() if not others & waiting.keys() - {module}]:
        for module in free:
            del waiting[module]
    assert not waiting, "these files stand in circles, or above one"


@pytest.mark.parametrize("folder", ["ltx2_core", "nodes", "benchmarks"])
def test_nothing_is_unpickled(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert not absolute_imports(path) & UNSAFE, f"{name_of(path)}: weights come from safetensors"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), (
                    f"{name_of(path)}:{node.lineno}: torch.load"
                )


def test_every_file_opens_with_a_docstring():
    assert not [name_of(path) for path in FILES if tree(path).body and not ast.get_docstring(tree(path))]


ALONE = """
import sys
class Host:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {host!r}:
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Host())
{body}
"""


def run_alone(body: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which an import of the host fails."""
    code = ALONE.format(host=HOST, body=body)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=1800
    )


def test_the_library_imports_without_comfyui():
    run = run_alone("import ltx2_core")
    assert run.returncode == 0, run.stderr


def test_the_pack_imports_without_comfyui_until_the_host_requests_nodes():
    if not (ROOT / "__init__.py").is_file():
        pytest.skip("this checkout has no node pack")
    body = (
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location(\n"
        "    'pack', '__init__.py', submodule_search_locations=['.'])\n"
        "pack = importlib.util.module_from_spec(spec)\n"
        "sys.modules['pack'] = pack\n"
        "spec.loader.exec_module(pack)\n"
        "assert callable(pack.comfy_entrypoint)\n"
        "assert not hasattr(pack, 'NODE_CLASS_MAPPINGS')\n"
    )
    run = run_alone(body)
    assert run.returncode == 0, run.stderr
