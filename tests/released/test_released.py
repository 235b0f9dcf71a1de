"""Released files: the table, downloads from a stand-in hub, checks, and ``--model`` of the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
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
def hub(tiny_set, gemma_file, monkeypatch, tmp_path):
    """A hub with the files of ``NAME``, which are tiny ones."""
    model = released_models()[NAME]
    contents = (tiny_set.checkpoint, gemma_file, tiny_set.upsampler)
    files = {f"{file.repository}/{file.path}": one for file, one in zip(model.files, contents, strict=True)}
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
        assert file.bytes is None or file.bytes > 10**8, file
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
    assert {"repository", "path", "folder", "bytes", "local"} <= listed["files"][0].keys()


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
