"""Released files: the table, downloads from a stand-in hub, checks, and ``--model`` of the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
from ltx2_core.released import table
from ltx2_core.released.table import released_files, released_models

from .stand_in_hub import stand_in_hub

NAME = "ltx-2.3-distilled"
SMALL = ["--prompt", "a ball", "--width", "64", "--height", "64", "--frames", "9"]


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def gemma_file(tiny_set, tmp_path_factory) -> Path:
    """The tiny Gemma in one file with its tokenizer, as it is published."""
    tensors = load_file(tiny_set.text_encoder / "model.safetensors")
    named = {f"model.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    content = (tiny_set.text_encoder / "tokenizer.json").read_bytes()
    named["tokenizer_json"] = torch.tensor(list(content), dtype=torch.uint8)
    path = tmp_path_factory.mktemp("gemma") / "gemma.safetensors"
    save_file(named, path)
    return path


@pytest.fixture
def small_table(tiny_set, gemma_file, monkeypatch, tmp_path):
    """The table with the sizes and hashes of tiny files for those of ``NAME``; yields them as id -> path."""
    ids = [file.id for file in released_models()[NAME].files]
    contents = dict(zip(ids, (tiny_set.checkpoint, gemma_file, tiny_set.upsampler), strict=True))
    values = json.loads(table._TABLE.read_text())
    for entry in values["files"]:
        if entry["id"] in contents:
            content = contents[entry["id"]].read_bytes()
            entry |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (tmp_path / "table.json").write_text(json.dumps(values))

    def forget() -> None:
        for cached in (table._table, table.released_files, table.released_models):
            cached.cache_clear()

    with monkeypatch.context() as patched:
        patched.setattr(table, "_TABLE", tmp_path / "table.json")
        forget()
        yield contents
    forget()


@pytest.fixture
def hub(small_table, monkeypatch, tmp_path):
    """A hub with the files of ``NAME``, which are tiny ones."""
    files = {f"{file.repository}/{file.path}": small_table[file.id] for file in released_models()[NAME].files}
    monkeypatch.setenv("LTX2_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with stand_in_hub(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_the_table_names_each_file_once_with_a_place_and_models_of_one_generation():
    files = released_files()
    places = [(file.folder, file.name) for file in files.values()]
    assert len(set(places)) == len(places)
    for file in files.values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", file.repository), file
        ending = "model" if file.kind == "tokenizer" else "safetensors"
        assert re.fullmatch(rf"[\w./-]+\.{ending}", file.path), file
        assert file.bytes is None or file.bytes > 10**5, file
        # A hash is that of one content, whose size is known with it.
        assert file.sha256 is None or (file.exact and re.fullmatch("[0-9a-f]{64}", file.sha256)), file
    for model in released_models().values():
        shared = set.intersection(*(set(file.generations) for file in model.files))
        assert len(shared) == 1, model
        generation = shared.pop()
        assert ("ltxv-" if generation == "0.9" else f"ltx-{generation}") in model.name
        assert ("fp8" in model.name) == (model.stored == "fp8")
        assert ("distilled" in model.name) == model.distilled
        # T5 is published without its tokenizer.
        assert (model.tokenizer is None) == (generation != "0.9")


def test_a_model_is_downloaded_found_checked_and_generates(hub, tmp_path):
    missing = run("generate", "--model", NAME, *SMALL, "-o", tmp_path / "clip.mp4")
    assert missing.exit_code == 2
    assert f"ltx2 models get {NAME}" in missing.output
    assert f"missing: {released_models()[NAME].checkpoints[0].id}" in run("models", "list").output
    got = run("models", "get", NAME)
    assert got.exit_code == 0, got.output
    folder = tmp_path / "models"
    for file in released_models()[NAME].files:
        content = hub.files[f"{file.repository}/{file.path}"]
        assert (folder / file.folder / file.name).read_bytes() == content
    assert not any((folder / ".downloads").iterdir())
    assert re.search(rf"^{NAME} .*complete$", run("models", "list").output, re.M)
    # Nothing is downloaded twice.
    hub.requests.clear()
    assert run("models", "get", NAME).exit_code == 0
    assert {method for method, *_ in hub.requests} == {"HEAD"}
    checked = run("models", "check", NAME, "--sha256")
    assert (checked.exit_code, checked.output.count("ok ")) == (0, 3), checked.output
    made = run("generate", "--model", NAME, *SMALL, "-o", tmp_path / "clip.mp4")
    assert made.exit_code == 0, made.output
    clip = read_video(tmp_path / "clip.mp4")
    assert (clip.frame_count, clip.width) == (9, 64)
    # The model says that its weights are distilled, and where its upscaler is.
    twice = run(
        "generate", "--model", NAME, *SMALL[:6], "--stages", "2", "--dry-run", "-o", tmp_path / "two.mp4"
    )
    assert twice.exit_code == 0, twice.output
    assert "stage 2" in twice.output


def test_a_download_that_was_cut_is_resumed_where_it_ended(hub, tmp_path, monkeypatch):
    file = released_models()[NAME].checkpoints[0]
    content = hub.files[f"{file.repository}/{file.path}"]
    # The package writes whole pieces of this size alone.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)
    # It also tries again by itself, a second later.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut_at = len(content) // 8
    cut = run("models", "get", file.id)
    assert cut.exit_code != 0
    assert "resumes" in cut.output
    target = tmp_path / "models" / file.folder / file.name
    assert not target.exists()
    hub.cut_at = None
    hub.requests.clear()
    assert run("models", "get", file.id).exit_code == 0
    assert target.read_bytes() == content
    (begin,) = [wanted for method, _, wanted in hub.requests if method == "GET"]
    assert int(re.search(r"\d+", begin)[0]) > 0


def test_a_gated_file_says_that_it_needs_a_token_and_uses_it(hub, monkeypatch):
    file = released_models()[NAME].upscaler
    hub.token = "hf_secret"
    refused = run("models", "get", file.id)
    assert refused.exit_code != 0
    assert "HF_TOKEN" in refused.output
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    got = run("models", "get", file.id)
    assert got.exit_code == 0, got.output


def test_a_full_disk_is_told_before_anything_is_downloaded(hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 10**9))
    full = run("models", "get", NAME)
    assert full.exit_code != 0
    assert "make room" in full.output
    assert {method for method, *_ in hub.requests} == {"HEAD"}


def test_files_that_are_damaged_of_another_generation_or_other_files_are_told_apart(
    hub, tmp_path, tiny_set, tiny_set_20
):
    assert run("models", "get", NAME).exit_code == 0
    model = released_models()[NAME]
    checkpoint, gemma, upscaler = (tmp_path / "models" / file.folder / file.name for file in model.files)
    checkpoint.write_bytes(tiny_set_20.checkpoint.read_bytes())
    gemma.write_bytes(gemma.read_bytes()[:-100])
    changed = bytearray(upscaler.read_bytes())
    changed[-1] ^= 1
    upscaler.write_bytes(changed)
    # A change of one byte is seen by the hash alone.
    header = run("models", "check", NAME)
    assert header.exit_code == 1
    states = [line.split()[0] for line in header.output.splitlines()]
    assert states == ["mismatched", "damaged", "ok"], header.output
    whole = run("models", "check", NAME, "--sha256")
    assert [line.split()[0] for line in whole.output.splitlines()][2] == "different"
    upscaler.unlink()
    assert run("models", "check", NAME).output.splitlines()[2].startswith("missing")
    # What is wrong is downloaded again.
    again = run("models", "get", NAME)
    assert again.exit_code == 0, again.output
    assert run("models", "check", NAME, "--sha256").exit_code == 0


def test_the_list_is_json_for_programs():
    listed = json.loads(run("models", "list", "--json").output)
    assert listed["models"][NAME]["distilled"] is True
    assert {"repository", "path", "folder", "bytes", "sha256", "local"} <= listed["files"][0].keys()


@pytest.mark.parametrize("tags", [True, False], ids=["by the tag of the hub", "by the table"])
def test_a_file_that_was_damaged_on_its_way_never_takes_its_place(hub, tmp_path, tags):
    file = released_models()[NAME].upscaler
    hub.tags, hub.damaged = tags, True
    refused = run("models", "get", file.id)
    assert refused.exit_code != 0
    assert "another sha256" in refused.output
    assert not (tmp_path / "models" / file.folder / file.name).exists()
    # What came is of no use for the next try.
    hub.damaged = False
    hub.requests.clear()
    again = run("models", "get", file.id)
    assert again.exit_code == 0, again.output
    assert [wanted for method, _, wanted in hub.requests if method == "GET"] == [None]


def test_without_the_hub_the_hashes_of_the_table_hold(hub, tmp_path, monkeypatch):
    assert run("models", "get", NAME).exit_code == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    checked = run("models", "check", NAME, "--sha256")
    assert (checked.exit_code, checked.output.count("ok ")) == (0, 3), checked.output
    upscaler = released_models()[NAME].upscaler
    path = tmp_path / "models" / upscaler.folder / upscaler.name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    wrong = run("models", "check", upscaler.id, "--sha256")
    assert wrong.exit_code == 1
    assert "its sha256 is not the published one" in wrong.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models", "get", "other"], "'other'"),
        (["models", "check", "other"], "'other'"),
        (["generate", "--model", "other", *SMALL], "--model other: 'other' is no released model"),
        (
            ["generate", "--model", NAME, "--checkpoint", "a.safetensors", *SMALL],
            "two models",
        ),
    ],
)
def test_unknown_names_and_two_models_are_refused(words, says):
    refused = run(*words)
    assert refused.exit_code == 2
    assert says in refused.output


def test_a_hub_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LTX2_MODELS", str(tmp_path))
    refused = run("models", "get", NAME)
    assert refused.exit_code != 0
    assert "HF_ENDPOINT" in refused.output
