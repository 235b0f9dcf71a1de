"""The layers import one way, the library knows nothing of ComfyUI, and weights are never unpickled."""

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

# Lowest first. A part imports parts of lower layers and of its own; a part not listed fails the test below.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"config", "shapes", "types", "attention", "out_of_memory"}),
    frozenset({"storage"}),
    frozenset({"transformer", "video_vae", "audio", "text", "upsampler", "latent_filters", "previews"}),
    frozenset({"sampling", "conditioning", "loading", "media", "memory", "training", "tiny"}),
    frozenset(
        {
            "networks",
            "request",
            "progress",
            "decoding",
            "coders",
            "inputs",
            "generation",
            "kept",
            "processes",
            "speed",
            "pipeline",
            "editing",
            "environment",
        }
    ),
    frozenset({"cli", "serve"}),
    frozenset({"__init__"}),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
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


def part_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The rooms and files of ltx2_core that a file imports relatively."""
    package = path.relative_to(CORE).parent.parts
    found = set()
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        assert node.level <= len(package) + 1, f"{name_of(path)} imports from outside ltx2_core"
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        base = [name for name in base if name]
        found |= {base[0]} if base else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_library_never_imports_the_host_or_itself_by_name(path):
    imports = absolute_imports(path)
    assert not imports & HOST, "ltx2_core runs without ComfyUI; host code lives in nodes/"
    assert "ltx2_core" not in imports, "inside ltx2_core imports are relative: a node pack is not on the path"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down_the_layers(path):
    here = part_of(path)
    assert here in HEIGHT, f"give {here} its place in LAYERS"
    upward = {part for part in imported_parts(path) if part in HEIGHT and HEIGHT[part] > HEIGHT[here]}
    assert not upward, f"{here} must not import {upward}"


@pytest.mark.parametrize("folder", ["ltx2_core", "nodes", "benchmarks"])
def test_nothing_is_unpickled(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert not absolute_imports(path) & UNSAFE, f"{name_of(path)}: weights come from safetensors"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), (
                    f"{name_of(path)}:{node.lineno}: torch.load"
                )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(tree(path)) or not tree(path).body, "a file opens with a docstring"


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
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_library_imports_without_comfyui():
    run = run_alone("import ltx2_core")
    assert run.returncode == 0, run.stderr


def test_the_pack_imports_without_comfyui_until_the_host_asks_for_nodes():
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
