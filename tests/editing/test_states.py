"""State folders and saved latents: of one model, one user and one run at a time."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline, find_saved, resume, save_latents
from ltx2_core.editing import LongVideo, long_video
from ltx2_core.editing.audio_track import audio_identity
from ltx2_core.editing.sources import FramesInMemory
from ltx2_core.editing.windows import WindowStore
from ltx2_core.media.atomic import replacing
from ltx2_core.run import saved_latents
from ltx2_core.storage.identity import identity
from ltx2_core.storage.private import locked, private_folder, prune_parts, prune_saved
from ltx2_core.tiny import embedded_set
from ltx2_core.types import AVLatent

HOW = LongVideo(window_frames=17, overlap_frames=16)
OPTIONS = {"width": 64, "height": 64, "num_frames": 25, "fps": 8, "steps": 1, "cfg": 1, "stages": 1}
MODELS = {"files": {"transformer": "a"}, "dtype": "float32"}


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded checkpoint, and a function that exchanges one of its weights."""
    path = tmp_path / "model.safetensors"
    shutil.copy(embedded_set().checkpoint, path)

    def exchange(ending):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = {n: t * 1.5 if n.endswith(ending) else t for n, t in load_file(path).items()}
        path.unlink()
        save_file(tensors, path, metadata=metadata)

    return path, exchange


def open_model(path, **options):
    return LTX2Pipeline(path, text_encoder=embedded_set().text_encoder, **options)


def test_another_model_under_the_same_name_does_not_continue_a_long_clip(model, tmp_path):
    path, exchange = model
    state = tmp_path / "state"
    long_video(open_model(path), "a red circle", how=HOW, folder=state, **OPTIONS)
    (state / "window_00001.safetensors").unlink()
    long_video(open_model(path), "a red circle", how=HOW, folder=state, **OPTIONS)
    with pytest.raises(ValueError, match=r"other models \(dtype changed\)"):
        long_video(open_model(path, dtype=torch.bfloat16), "a red circle", how=HOW, folder=state, **OPTIONS)
    exchange("transformer_blocks.0.attn1.to_q.weight")
    (state / "window_00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds windows of other models .*transformer"):
        long_video(open_model(path), "a red circle", how=HOW, folder=state, **OPTIONS)


def test_a_state_folder_of_an_earlier_version_continues_with_a_line(model, tmp_path, caplog):
    path, _ = model
    state = tmp_path / "state"
    long_video(open_model(path), "a red circle", how=HOW, folder=state, **OPTIONS)
    (state / "models.json").unlink()
    (state / "window_00001.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        long_video(open_model(path), "a red circle", how=HOW, folder=state, **OPTIONS)
    assert sum("does not say which models" in line for line in caplog.messages) == 1


def test_latents_are_decoded_by_the_networks_of_their_run(model, tmp_path, caplog):
    path, exchange = model
    generation = open_model(path)(
        "a red circle", **{k: v for k, v in OPTIONS.items() if k != "num_frames"}, num_frames=9
    )
    saved = save_latents(generation, tmp_path / "clip.mp4", folder=tmp_path / "saved")
    frames = [torch.cat(list(one.frames())) for one in (resume(saved, open_model(path)), generation)]
    assert torch.equal(*frames)
    exchange("decoder.conv_in.conv.bias")
    with pytest.raises(ValueError, match="sampled for other files: video decoder"):
        resume(saved, open_model(path))
    with safe_open(saved, "pt") as file:
        about = json.loads(file.metadata()[saved_latents.KEY])
    del about["models"]
    save_file(load_file(saved), saved, metadata={saved_latents.KEY: json.dumps(about)})
    with caplog.at_level(logging.WARNING):
        resume(saved, open_model(path))
    assert "do not say which models" in caplog.text


@pytest.mark.parametrize("where", [0, 1000, 200 * 8176 + 6000, -1])
def test_an_identity_covers_size_header_and_samples(where, tmp_path):
    path = tmp_path / "file"
    content = bytearray(os.urandom(2**21))
    path.write_bytes(content)
    before = identity([path])
    assert identity([path, path]) == before
    path.rename(tmp_path / "moved")
    assert identity([tmp_path / "moved"]) == before
    content[where] ^= 1
    path.write_bytes(content)
    covered = where in (0, 1000, -1)
    assert (identity([path]) != before) == covered
    path.write_bytes(content + b"x")
    assert identity([path]) != before


def test_a_damaged_window_is_sampled_again(tmp_path):
    store = WindowStore(tmp_path / "s", {}, MODELS)
    (tmp_path / "s" / "window_00000.safetensors").write_bytes(b"")
    assert not store.has(0)


def test_a_damaged_entry_harms_itself_only(tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    generation = LTX2Pipeline.embedded()("a red circle", **{**OPTIONS, "num_frames": 9})
    saved = save_latents(generation, tmp_path / "clip.mp4", folder=folder)
    for name, content in (("a", b""), ("b", b"{}"), ("c", os.urandom(100))):
        (folder / f"{name}.latents.safetensors").write_bytes(content)
    assert find_saved(tmp_path / "clip.mp4", folder=folder) == saved
    assert find_saved(folder=folder) == saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "video": t["video"].repeat(2, 1, 1, 1, 1)}, "a run saves one clip"),
        (lambda t: {**t, "audio": t["audio"][0]}, "a run saves one clip"),
        (lambda t: {"other": t["video"]}, "holds no latents of video or audio"),
    ],
)
def test_latents_that_are_not_one_clip_are_refused_by_name(tmp_path, change, message):
    pipeline = LTX2Pipeline.embedded()
    generation = pipeline("a red circle", **{**OPTIONS, "num_frames": 9})
    saved = save_latents(generation, tmp_path / "clip.mp4", folder=tmp_path)
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    save_file({k: t.contiguous() for k, t in change(load_file(saved)).items()}, saved, metadata=metadata)
    with pytest.raises(ValueError, match=message):
        resume(saved, pipeline)


def test_a_window_that_was_cut_short_is_sampled_again(tmp_path):
    store = WindowStore(tmp_path / "s", {}, MODELS)
    store.save(0, AVLatent(torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 8, 3, 16)))
    assert store.has(0)
    path = tmp_path / "s" / "window_00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert not store.has(0)


def test_unfinished_files_of_dead_runs_are_removed_and_those_of_living_ones_are_not(tmp_path):
    old, young, other = (tmp_path / f".{name}.part" for name in ("clip-1", "clip-2", "film-1"))
    for path in (old, young, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (0, 0))
    with replacing(tmp_path / "clip.mp4") as temporary:
        temporary.write_bytes(b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".clip-2.part", ".film-1.part", "clip.mp4"]


def test_frames_in_another_order_are_other_frames():
    frames = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for moved in (frames.flip(0), frames.flip(1), frames.flip(3), frames.half().float()):
        assert FramesInMemory(moved).identity != FramesInMemory(frames).identity
    assert FramesInMemory(frames.clone()).identity == FramesInMemory(frames).identity
    waves = frames.flatten()[None], frames.flip(0).flatten()[None]
    assert audio_identity((waves[0], 48000)) != audio_identity((waves[1], 48000))


def test_a_private_folder_is_this_users_alone(tmp_path, monkeypatch):
    folder = private_folder(tmp_path / "own")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert private_folder(folder).stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="not a folder"):
        private_folder(tmp_path / "link")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        private_folder(folder)
    with pytest.raises(ValueError, match="belongs to another user"):
        find_saved(folder=folder)


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    folder = tmp_path / "state"
    script = (
        "import sys, pathlib\nfrom ltx2_core.storage.private import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="another run is writing to"), locked(folder):
        pass
    other.kill()
    other.wait()
    with locked(folder), locked(folder):
        found = []

        def enter():
            try:
                with locked(folder):
                    found.append("entered")
            except ValueError as error:
                found.append(str(error))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert "another run is writing" in found[0]
    assert not list(tmp_path.glob(".*.lock"))


def test_what_dead_runs_left_is_removed(tmp_path):
    old = time.time() - 40 * 86400
    names = (".a.part", "a.latents.safetensors", "b.latents.safetensors", ".b.part", "notes.txt")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "clip.windows").mkdir()
    for name in (".a.part", "a.latents.safetensors", "clip.windows", "notes.txt"):
        os.utime(tmp_path / name, (old, old))
    prune_saved(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"b.latents.safetensors", ".b.part", "notes.txt"}
    prune_parts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"b.latents.safetensors", "notes.txt"}
