"""A LoRA run: resumed bit for bit, and saved in the official layout."""

from __future__ import annotations

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.loading import Component, open_lora
from ltx2_core.run.codecs import Codecs
from ltx2_core.storage.private import locked
from ltx2_core.trainer.buckets import parse_buckets
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.dataset import DatasetOptions, encode_dataset, plan_dataset
from ltx2_core.trainer.lora_run import train_lora
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.rows import read_rows
from ltx2_core.trainer.run_files import RunFiles
from ltx2_core.trainer.samples import Samples
from ltx2_core.training.objective.objective import objective_of
from ltx2_core.training.state import TrainingState

sys.path.insert(0, str(Path(__file__).parents[1]))


from .conftest import check_equal, write_clip


def test_a_stopped_run_ends_with_the_weights_of_an_uninterrupted_one(settings, tmp_path) -> None:
    whole = train_lora(open_run(settings))
    other = replace(settings, output_dir=str(tmp_path / "other"), keep_last=1)
    train_lora(open_run(other), stop_at=1)
    # A run that was killed may have logged a step that it did not save.
    with (tmp_path / "other" / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "loss": 0}\n{"step": 3, "lo')
    resumed = train_lora(open_run(other))
    check_equal(whole, resumed)
    first, second = (path.with_name("log.jsonl").read_text() for path in (whole, resumed))
    assert first == second
    lines = [json.loads(line) for line in first.splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    # One of the two clips is silent.
    assert ["audio_loss" in line for line in lines].count(True) in (1, 2)
    assert [path.name for path in whole.parent.glob("checkpoints/*")].__len__() == 3
    assert [path.name for path in resumed.parent.glob("checkpoints/*")] == ["lora_step_000003.safetensors"]
    # The dataset may have moved, but not changed.
    moved = tmp_path / "moved"
    shutil.copytree(settings.dataset, moved)
    check_equal(whole, train_lora(open_run(replace(settings, dataset=str(moved)))))
    index = Index.load(moved)
    replace(index, entries=index.entries[:1]).save(moved)
    # An older version, which began the run, did not have all settings.
    recorded = whole.with_name("run.json")
    older = json.loads(recorded.read_text())
    del older["caption_dropout_video"]
    recorded.write_text(json.dumps(older))
    check_equal(whole, train_lora(open_run(settings)))
    with pytest.raises(ValueError, match=r"caption_dropout_video was 0\.0, is 0\.5"):
        train_lora(open_run(replace(settings, caption_dropout_video=0.5)))
    with pytest.raises(ValueError, match="holds another run: dataset_digest was"):
        train_lora(open_run(replace(settings, dataset=str(moved))))
    with pytest.raises(ValueError, match=r"holds another run: rank was 2, is 4"):
        train_lora(open_run(replace(settings, rank=4)))
    check_saved(whole)


def test_a_step_that_was_saved_is_not_saved_again_when_the_run_is_stopped(short_run, monkeypatch) -> None:
    saved: list[int] = []
    save = TrainingState.save

    def counted(state: TrainingState, path: Path, **how: bool) -> None:
        saved.append(state.step)
        save(state, path, **how)

    monkeypatch.setattr(TrainingState, "save", counted)
    path = train_lora(open_run(replace(short_run, save_every=2)), stop=lambda: len(saved) == 1)
    assert (saved, path.name) == ([2], "lora_step_000002.safetensors")
    train_lora(open_run(replace(short_run, steps=4, save_every=4, output_dir=f"{path}_")), stop=lambda: True)
    assert saved == [2, 1], "a step that was not saved is"


def check_saved(path: Path) -> None:
    """The file is an official LoRA with alpha folded in, and says what it was trained on."""
    opened = open_lora(path)
    assert len(opened.layers) == 6
    with safe_open(path, "pt") as file:
        facts, names = file.metadata(), list(file.keys())
    assert all(re.match(r"diffusion_model\.transformer_blocks\.0\..*lora_[AB]\.weight", n) for n in names)
    expected = {"rank": "2", "alpha": "4", "trigger": "zorb", "steps": "3", "audio": "yes", "task": "t2v"}
    assert expected.items() <= facts.items()
    assert facts["buckets"] == "64x64x9"
    assert any(tensor.any() for name, tensor in load_file(path).items() if "lora_B" in name)


def test_batches_are_of_one_size_and_follow_from_the_seed(cache) -> None:
    index = Index.load(cache)

    def drawn(seed: int) -> list[str]:
        samples = Samples(cache, index, objective_of("t2v"), seed=seed, batch_size=2)
        assert (samples.per_epoch, samples.audio_share) == (2, 0.5)
        return [samples.batch(n, torch.Generator().manual_seed(n)).names[0] for n in range(8)]

    assert drawn(0) == drawn(0)
    assert {len(set(drawn(0)[n : n + 2])) for n in (0, 2, 4, 6)} == {2}
    assert any(drawn(seed) != drawn(0) for seed in range(1, 5))
    samples = Samples(cache, index, objective_of("a2v"))
    assert len(samples.left_out) == 1
    empty = Samples(cache, index, objective_of("t2v"), caption_dropout=1.0)
    text = load_file(cache / index.empty_text)["video"]
    assert torch.equal(empty.batch(0, torch.Generator()).clips.context.video[0], text)


def test_clips_without_audio_train_no_layer_of_the_audio(settings, cache, tmp_path) -> None:
    index = Index.load(cache)
    silent = tmp_path / "silent"
    silent.mkdir()
    for name in ("clips", "texts"):
        (silent / name).symlink_to(cache / name)
    replace(index, entries=index.entries[1:]).save(silent)
    quiet = replace(settings, dataset=str(silent), steps=1, targets=("regex:blocks\\.0\\..*to_q$",))
    names = load_file(train_lora(open_run(quiet))).keys()
    assert names
    assert not any("audio" in name for name in names)
    with pytest.raises(ValueError, match="none of these layers takes part"):
        open_run(replace(quiet, targets=("audio",), output_dir=str(tmp_path / "no")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("regex:(",)}, "is not a regular expression"),
        ({"targets": ("to_z",)}, "targets=to_z: the transformer has no such linear layer"),
        ({"task": "v2v"}, r"loud\.mp4: it has no reference_video, which the task or a condition needs"),
        ({"task": "a2a"}, r"loud\.mp4: it has no reference_audio"),
        ({"task": "inpaint"}, r"loud\.mp4: it has no video_mask"),
        ({"conditions": ("mask:0",)}, r"mute\.mp4: it has no video_mask"),
        ({"conditions": ("audio.mask",)}, r"loud\.mp4: it has no audio_mask"),
        ({"init_lora": "gone.safetensors"}, "init_lora: no file at gone"),
        ({"init_lora": __file__}, r"test_lora_run\.py"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_loaded(settings, cache, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        open_run(replace(settings, **changes))
    # The held-out clips are checked as well.
    with pytest.raises(ValueError, match=message):
        open_run(replace(settings, validation_dataset=str(cache), **changes))


@pytest.mark.parametrize("kind", ["file", "texts"])
def test_an_encoded_file_that_is_gone_is_found_before_anything_is_loaded(
    settings, cache, tmp_path, kind
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    entry = Index.load(copy).entries[1]
    gone = copy / (entry.file if kind == "file" else entry.texts[0])
    gone.unlink()
    with pytest.raises(ValueError, match=f"{gone.name} is missing or cut short"):
        open_run(replace(settings, dataset=str(copy)))


def test_the_layers_in_the_headers_are_those_of_the_network(settings) -> None:
    opened = open_run(replace(settings, targets=("regex:.",)))
    with opened.networks.use(Component.TRANSFORMER) as network:
        linear = {n for n, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(opened.layers) == linear


def test_a_dataset_of_other_networks_is_refused(settings, cache, tmp_path) -> None:
    other = tmp_path / "other_cache"
    other.mkdir()
    replace(Index.load(cache), models={"video encoder": "0" * 32}).save(other)
    with pytest.raises(ValueError, match="encoded by another video encoder"):
        open_run(replace(settings, dataset=str(other)))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_clip(settings, cache, tmp_path) -> None:
    index = Index.load(cache)
    broken = tmp_path / "broken"
    (broken / "clips").mkdir(parents=True)
    (broken / "texts").symlink_to(cache / "texts")
    for entry in index.entries:
        tensors = load_file(cache / entry.file)
        save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, broken / entry.file)
    index.save(broken)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1, with .*\.mp4"):
        train_lora(open_run(replace(settings, dataset=str(broken))))


def test_two_runs_do_not_write_to_one_folder(settings) -> None:
    opened = open_run(settings)
    with ThreadPoolExecutor(1) as pool:
        other = locked(opened.files.folder)
        pool.submit(other.__enter__).result()
        with pytest.raises(ValueError, match="another run is writing to"):
            train_lora(opened)
        assert not opened.files.folder.exists()
        pool.submit(other.__exit__, None, None, None).result()
    train_lora(opened, stop_at=1)


@pytest.mark.parametrize("damage", ['{"step": 3, "lo', "7", "null", "{}", "\0\0"])
def test_a_damaged_line_of_the_log_is_dropped(tmp_path, damage) -> None:
    files = RunFiles(tmp_path)
    files.log({"step": 1})
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write(damage + "\n")
    files.log({"step": 2})
    files.cut_log(1)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n'


def test_old_loras_are_deleted_and_the_final_one_never(tmp_path) -> None:
    files = RunFiles(tmp_path)
    for step in (2, 10, 4):
        files.weights(step).parent.mkdir(exist_ok=True)
        files.weights(step).touch()
    files.final.touch()
    files.forget_old(0)
    assert len(list(tmp_path.glob("checkpoints/*"))) == 3
    files.forget_old(1)
    assert [path.name for path in tmp_path.glob("checkpoints/*")] == ["lora_step_000010.safetensors"]
    assert files.final.exists()


def test_init_lora_continues_from_a_file_with_the_same_layers(settings, tmp_path) -> None:
    first = train_lora(open_run(replace(settings, steps=1)))
    again = replace(settings, output_dir=str(tmp_path / "b"), steps=1, init_lora=str(first))
    second = train_lora(open_run(replace(again, learning_rate=1e-12)))
    before, after = load_file(first), load_file(second)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"has no layer .* of rank 3 and kind lora"):
        open_run(replace(again, rank=3, output_dir=str(tmp_path / "c")))


def test_a_run_with_init_lora_resumes_wherever_that_file_is_now(settings, tmp_path) -> None:
    first = train_lora(open_run(replace(settings, steps=1)))
    other = train_lora(open_run(replace(settings, steps=1, seed=1, output_dir=str(tmp_path / "other"))))
    run = replace(settings, steps=2, init_lora=str(first), output_dir=str(tmp_path / "b"))
    whole = train_lora(open_run(replace(run, output_dir=str(tmp_path / "whole"))))
    train_lora(open_run(run), stop_at=1)
    for wrong in (str(other), ""):
        with pytest.raises(ValueError, match="holds another run: init_lora_digest was"):
            train_lora(open_run(replace(run, init_lora=wrong)))
    moved = tmp_path / "moved.safetensors"
    first.rename(moved)
    copy = tmp_path / "b_copy"
    shutil.copytree(tmp_path / "b", copy)
    check_equal(whole, train_lora(open_run(replace(run, init_lora=str(moved)))))
    # Neither is the file needed any more.
    check_equal(whole, train_lora(open_run(replace(run, output_dir=str(copy)))))


def test_a_state_without_its_settings_is_refused(settings) -> None:
    opened = open_run(settings)
    train_lora(opened, stop_at=1)
    (opened.files.folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has state\.safetensors and no run\.json"):
        train_lora(opened)


def test_autocast_in_bfloat16_has_nearly_the_loss_of_float32(settings, tmp_path) -> None:
    found = []
    for precision in ("no", "bf16"):
        one = replace(settings, output_dir=str(tmp_path / precision), steps=1, mixed_precision=precision)
        train_lora(open_run(one))
        found.append(json.loads((tmp_path / precision / "log.jsonl").read_text())["loss"])
    assert found[1] == pytest.approx(found[0], rel=0.03)
    assert found[0] != found[1]


def test_an_ic_lora_names_the_scale_of_its_references_and_its_reader_finds_it(
    settings, networks, tmp_path
) -> None:
    clips = tmp_path / "pairs"
    (clips / "reference_video").mkdir(parents=True)
    for path in (clips / "a.mp4", clips / "reference_video" / "a.mp4"):
        write_clip(path, frames=18, audio=False)
    (clips / "a.txt").write_text("a red circle")
    options = DatasetOptions(buckets=parse_buckets("64x64x17"), downscale=2, temporal=2)
    out = tmp_path / "pairs_cache"
    index, _ = encode_dataset(Codecs(networks), plan_dataset(read_rows(clips), options), options, out)
    tensors = load_file(out / index.entries[0].file)
    assert tensors["reference_video"].shape == (128, 2, 1, 1)
    run = replace(settings, dataset=str(out), task="v2v", steps=1)
    opened = open_lora(train_lora(open_run(run)))
    assert opened.is_ic_lora
    assert opened.reference_downscale_factor == 2
    assert opened.reference_temporal_scale_factor == 2


def test_two_clips_are_learnt_by_the_loss_of_noise_that_stays_the_same(short_run) -> None:
    path = train_lora(open_run(replace(short_run, rank=4, steps=12, save_every=12, validation_every=4)))
    lines = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    found = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(found) == 3
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.9 * found[0]
