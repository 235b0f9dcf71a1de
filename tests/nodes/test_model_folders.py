"""Whatever lies in the model folders, lists are built, without waiting, and a fault is named; no ComfyUI."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ltx2_core.text.tiny_gemma import write_tiny_gemma

ROOT = Path(__file__).resolve().parents[2]
PACK = "pack_under_test"
SUFFIXES = (".ckpt", ".pt", ".bin", ".safetensors", ".sft")
GOOD = "good/model.safetensors"
BAD = "bad/model.safetensors"
INDEX, CONFIG = "model.safetensors.index.json", "config.json"


def host_folders(models: Path) -> ModuleType:
    """The functions of the host's ``folder_paths`` that the pack uses, over ``models``."""
    host: Any = ModuleType("folder_paths")
    categories = ("checkpoints", "diffusion_models", "diffusers", "vae", "text_encoders", "loras")
    host.folder_names_and_paths = {name: ([str(models / name)], SUFFIXES) for name in categories}
    host.get_folder_paths = lambda category: [str(models / category)]

    def get_filename_list(category: str) -> list[str]:
        root = models / category
        found = [
            os.path.join(folder, f) for folder, _, files in os.walk(root, followlinks=True) for f in files
        ]
        return sorted(os.path.relpath(f, root) for f in found if os.path.splitext(f)[1] in SUFFIXES)

    def get_full_path(category: str, name: str) -> str | None:
        path = models / category / name
        return str(path) if os.path.isfile(path) else None

    host.get_filename_list, host.get_full_path = get_filename_list, get_full_path
    return host


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma") / "gemma"
    write_tiny_gemma(folder, dtype=torch.float32, head_dim=32)
    return folder


@pytest.fixture
def models(tmp_path: Path, gemma: Path) -> Path:
    shutil.copytree(gemma, tmp_path / "text_encoders" / "good")
    shutil.copytree(gemma, tmp_path / "text_encoders" / "bad")
    return tmp_path


@pytest.fixture
def lists(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``nodes/loading/file_lists.py``, imported without the nodes; no list may take half an hour."""
    monkeypatch.setitem(sys.modules, "folder_paths", host_folders(models))
    rooms = (
        (PACK, ROOT),
        (f"{PACK}.nodes", ROOT / "nodes"),
        (f"{PACK}.nodes.loading", ROOT / "nodes" / "loading"),
    )
    for name, path in rooms:
        package = ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    for name in ("host.folders", "host.file_checks", "host.file_list", "loading.file_lists"):
        sys.modules.pop(f"{PACK}.nodes.{name}", None)

    def late(*_: object) -> None:
        raise AssertionError("a list waits for something")

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, late)
        signal.alarm(1800)
    yield import_module(f"{PACK}.nodes.loading.file_lists")
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: void((folder / name).write_bytes(data))


def void(_: object) -> None:
    """For a table of functions without a result."""


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**31)


def unreadable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads every file")


def index(weight_map: object) -> str:
    return json.dumps({"weight_map": weight_map})


DEEP = "[" * 200_000
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "index {}": (text(INDEX, "{}"), "has no 'weight_map'"),
    "index []": (text(INDEX, "[]"), "must hold a JSON object; got list"),
    "index null": (text(INDEX, "null"), "must hold a JSON object; got NoneType"),
    "index empty": (text(INDEX, ""), "is not JSON"),
    "index of a list": (text(INDEX, index(["a"])), "has no 'weight_map'"),
    "index of numbers": (text(INDEX, index({"a": 1})), "has no 'weight_map'"),
    "index of lists": (text(INDEX, index({"a": ["b"]})), "has no 'weight_map'"),
    "index of another folder": (text(INDEX, index({"a": "../x.safetensors"})), "has no 'weight_map'"),
    "index of an absent file": (text(INDEX, index({"a": "x.safetensors"})), r"x\.safetensors \(1 in all\)"),
    "index deep": (text(INDEX, DEEP), "is not JSON"),
    "index not UTF-8": (text(INDEX, b'{"\xff\xfe": 1}'), "is not JSON"),
    "index a pipe": (replaced(INDEX, fifo), "is not a regular file"),
    "index a folder": (replaced(INDEX, Path.mkdir), "is not a regular file"),
    "index a device": (replaced(INDEX, link("/dev/zero")), "is not a regular file"),
    "index a broken link": (replaced(INDEX, link("nowhere")), "cannot be read: No such file"),
    "index a link to itself": (replaced(INDEX, link(INDEX)), "cannot be read"),
    "index huge": (replaced(INDEX, huge), "too many for a configuration or an index"),
    "index unreadable": (replaced(INDEX, unreadable), "cannot be read: Permission denied"),
    "config []": (text(CONFIG, "[]"), "must hold a JSON object; got list"),
    "config a number": (text(CONFIG, "3"), "must hold a JSON object; got int"),
    "config a string": (text(CONFIG, '"gemma3"'), "must hold a JSON object; got str"),
    "config cut short": (text(CONFIG, '{"model_type": "gem'), "is not JSON"),
    "config deep": (text(CONFIG, DEEP), "is not JSON"),
    "config not UTF-8": (text(CONFIG, b"\xff\xfe{}"), "is not JSON"),
    "config a pipe": (replaced(CONFIG, fifo), "is not a regular file"),
    "config a folder": (replaced(CONFIG, Path.mkdir), "is not a regular file"),
    "config a device": (replaced(CONFIG, link("/dev/zero")), "is not a regular file"),
    "config a broken link": (replaced(CONFIG, link("nowhere")), "cannot be read: No such file"),
    "config a link to itself": (replaced(CONFIG, link(CONFIG)), "cannot be read"),
    "config huge": (replaced(CONFIG, huge), "too many for a configuration or an index"),
    "config unreadable": (replaced(CONFIG, unreadable), "cannot be read: Permission denied"),
    "text_config []": (
        text(CONFIG, '{"model_type": "gemma3", "text_config": []}'),
        "'text_config' must be an object",
    ),
    "weights cut short": (text("model.safetensors", b"\x08"), "not a safetensors file"),
    "weights a pipe beside": (replaced("other.safetensors", fifo), "is not a regular file"),
    "weights a folder beside": (replaced("other.safetensors", Path.mkdir), "is a folder"),
    "weights a broken link beside": (replaced("other.safetensors", link("nowhere")), "does not exist"),
    "tokenizer a pipe": (replaced("tokenizer.json", fifo), "no tokenizer"),
    "tokenizer absent": (replaced("tokenizer.json", lambda path: None), "no tokenizer"),
}
FOREIGN = {
    "another model": text(CONFIG, '{"model_type": "t5"}'),
    "no model_type": text(CONFIG, "{}"),
    "model_type a list": text(CONFIG, '{"model_type": ["gemma3"]}'),
}
SOUND: dict[str, Callable[[Path], None]] = {
    "a link to itself": replaced("again", link(".")),
    "a pipe that nothing names": replaced("notes.txt", fifo),
    "a name that is not UTF-8": lambda folder: void(open(os.fsencode(folder) + b"/\xff.json", "wb").close()),
}

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes, devices and links of POSIX")


def every_list(lists: Any) -> None:
    """All that the schemas of the nodes list."""
    for one in vars(lists).values():
        if isinstance(one, lists.FileList):
            one.names()
    lists.folders.every_file()


@posix
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_text_encoder_is_listed_last_and_choosing_it_says_why(models, lists, caplog, fault):
    spoil, words = FAULTS[fault]
    spoil(models / "text_encoders" / "bad")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        every_list(lists)
        assert lists.ENCODERS.names() == [GOOD, BAD]
    with pytest.raises(
        ValueError, match=rf"{BAD} cannot serve as a text encoder: .*{words}(.|\n)*Choose {GOOD}"
    ):
        lists.ENCODERS.path(BAD)
    assert str(models) not in lists.ENCODERS.refusal(BAD)
    assert not lists.ENCODERS.refusal(GOOD)
    (record,) = caplog.records
    assert "bad cannot be loaded" in record.getMessage()


@posix
@pytest.mark.parametrize("fault", FOREIGN)
def test_a_folder_of_another_model_is_not_listed(models, lists, caplog, fault):
    FOREIGN[fault](models / "text_encoders" / "bad")
    every_list(lists)
    assert lists.ENCODERS.names() == [GOOD]
    assert not caplog.records
    assert "no Gemma 3 text encoder" in lists.ENCODERS.refusal(BAD)


@posix
@pytest.mark.parametrize("oddity", SOUND)
def test_other_files_in_the_folder_of_a_text_encoder_do_not_matter(models, lists, oddity):
    SOUND[oddity](models / "text_encoders" / "bad")
    every_list(lists)
    assert {GOOD, BAD} <= {*lists.ENCODERS.names()}


@posix
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("category", ["diffusers", "checkpoints", "loras", "vae", "diffusion_models"])
def test_the_same_faults_in_another_category_leave_every_list(models, lists, category, fault):
    folder = models / category / "bad"
    shutil.copytree(models / "text_encoders" / "bad", folder)
    (folder / "model_index.json").write_text("{}")
    shutil.copytree(folder, folder / "text_encoder")
    for path in (folder, folder / "text_encoder"):
        FAULTS[fault][0](path)
    every_list(lists)
    assert lists.ENCODERS.names()[:2] == [BAD, GOOD]


def test_an_unforeseen_error_is_a_fault_and_not_the_end_of_the_nodes(models, lists, monkeypatch, caplog):
    def unforeseen(path: Path) -> None:
        raise TypeError("list indices must be integers")

    for name in ("find_encoder", "open_checkpoint", "open_lora"):
        monkeypatch.setattr(lists.file_checks, name, unforeseen)
    every_list(lists)
    assert lists.ENCODERS.names() == [BAD, GOOD]
    assert "it is malformed (TypeError: list indices" in lists.ENCODERS.refusal(BAD)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("suffix", [".txt", ".safetensors"])
def test_a_folder_of_twenty_thousand_files_is_refused_unread(models, lists, suffix, monkeypatch):
    folder = models / "text_encoders" / "bad"
    for number in range(20_000):
        os.close(os.open(f"{folder}/{number}{suffix}", os.O_CREAT))
    opened = []
    for name in ("find_encoder", "open_checkpoint", "open_lora"):
        original = getattr(lists.file_checks, name)
        monkeypatch.setattr(
            lists.file_checks, name, lambda path, original=original: (opened.append(path), original(path))[1]
        )
    lists.ENCODERS.names()
    assert len(opened) <= 3
    (bad,) = [name for name in lists.ENCODERS.names() if name != GOOD]
    assert "holds more than 10000 files" in lists.ENCODERS.refusal(bad)
