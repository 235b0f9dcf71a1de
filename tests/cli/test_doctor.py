"""The doctor names what is wrong and how to mend it, and never falls over itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from ltx2_core.cli import environment
from ltx2_core.cli.doctor import doctor
from ltx2_core.cli.environment import Fact, examine
from ltx2_core.memory import transfers
from ltx2_core.torchaudio_import import load_torchaudio

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def facts() -> dict[str, Fact]:
    return {fact.name: fact for fact in examine()}


def test_here_everything_needed_works():
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0, result.output
    assert "everything needed is installed" in result.output
    assert "libavcodec" in result.output


@pytest.mark.parametrize(
    "error",
    [
        OSError("undefined symbol"),
        RuntimeError("CUDA versions"),
        AttributeError("no such operator"),
        ModuleNotFoundError("No module named 'torchaudio'", name="torchaudio"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_a_working_torchaudio_all_is_well_and_own_functions_are_named(monkeypatch, error):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchaudio"):
                raise error

    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    load_torchaudio.cache_clear()
    try:
        result = CliRunner().invoke(doctor)
    finally:
        load_torchaudio.cache_clear()
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if "resampling" in line]
    absent = isinstance(error, ModuleNotFoundError)
    assert "own functions" in line
    assert ("torchaudio is not installed" if absent else str(error)) in line


def test_an_installed_torchaudio_is_named():
    pytest.importorskip("torchaudio")
    version = environment.installed_version("torchaudio")
    assert facts()["resampling"] == Fact(name="resampling", state="ok", text=f"torchaudio {version}")


def test_a_missing_and_an_old_package_say_what_to_install(monkeypatch):
    monkeypatch.setattr(environment, "REQUIRED", {"no-such-package": "1.0", "numpy": "999.0"})
    missing, old = facts()["no-such-package"], facts()["numpy"]
    assert missing.state == "problem"
    assert "pip install no-such-package" in missing.text
    assert old.state == "problem"
    assert 'pip install "numpy>=999.0"' in old.text


def test_what_comfyui_has_no_switch_for_is_said_with_the_reason():
    text = facts()["ComfyUI"].text
    for option in ("CUDA graphs", "--fp8-blocks", "--keep-text-keys", "ComfyUI moves and patches weights"):
        assert option in text


def test_missing_codecs_are_a_problem(monkeypatch):
    monkeypatch.setattr(environment, "_has_codec", lambda name, mode: name != "libx264")
    fact = facts()["video and audio"]
    assert fact.state == "problem"
    assert "libx264 encoder" in fact.text
    assert "pip install" in fact.text


def test_a_check_that_breaks_is_a_problem_and_not_a_crash(monkeypatch):
    def broken() -> Fact:
        raise OSError("libcuda is of another age")

    monkeypatch.setattr(environment, "_devices", broken)
    fact = facts()["devices"]
    assert fact.state == "problem"
    assert "another age" in fact.text


def test_the_embedded_files_are_listed_and_their_absence_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "embedded_dir", lambda: tmp_path)
    assert facts()["embedded model"].state == "note"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.safetensors").write_bytes(b"\0" * 1024)
    fact = facts()["embedded model"]
    assert fact.state == "ok"
    assert "tiny.safetensors" in fact.text


def test_the_lowest_versions_are_those_of_the_project_file():
    block = re.search(r"^dependencies = \[(.*?)^\]", PYPROJECT.read_text(encoding="utf-8"), re.M | re.S)
    assert block is not None
    wanted = dict(re.findall(r'"([A-Za-z]+)(?:>=([\d.]+))?"', block.group(1)))
    assert {name: version or "0" for name, version in wanted.items()} == environment.REQUIRED


@pytest.mark.parametrize(("count", "state"), [(4, "ok"), (0, "note")])
def test_refused_pinned_memory_is_a_note(monkeypatch, count, state):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transfers, "pinned_buffers", lambda: [torch.empty(2**20, dtype=torch.uint8)] * count)
    assert environment._pinned_memory().state == state


@pytest.mark.parametrize(
    ("version", "cudnn", "state"),
    [
        ("2.9.0+cu128", 91002, "note"),
        ("2.9.1", 91400, "note"),
        ("2.9.1", 91500, "ok"),
        ("2.10.0", 91002, "ok"),
        ("2.8.0", 91002, "ok"),
    ],
)
def test_a_torch_with_faulty_convolutions_is_named(monkeypatch, version, cudnn, state):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    fact = environment._convolutions()
    assert fact.state == state
    assert (version in fact.text) is (state == "note")


@pytest.mark.parametrize("installed", [True, False])
def test_kernels_of_a_gpu_without_triton_are_a_note(monkeypatch, installed):
    assert environment._kernels().text == "not needed without a GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        "ltx2_core.kernels.language.triton", SimpleNamespace(__version__="3.6.0") if installed else None
    )
    fact = environment._kernels()
    assert (fact.state, "pip install triton" in fact.text) == (("ok", False) if installed else ("note", True))


def test_memory_that_the_system_would_give_back_counts_as_available(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable:   5000 kB\n")
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(environment, "_text_of", lambda path: (tmp_path / "meminfo").read_text())
    assert environment.free_memory() == 5000 * 1024
