"""What watches a run: bands of noise levels, alarms, the batch that broke it, the best weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.loading import open_lora
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.health import LOGGED, alarms
from ltx2_core.trainer.lora_run import train_lora
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.settings import LoraSettings
from ltx2_core.training.history import History


@pytest.fixture
def settings(short_run) -> LoraSettings:
    return replace(short_run, steps=4, save_every=2, validation_every=1)


def history(**curves: list[float]) -> History:
    found = History()
    for name, values in curves.items():
        found.curves[name] = [(100 * n, value) for n, value in enumerate(values)]
    return found


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({"validation_audio_loss": [1.0, 1.05], "validation_loss": [2, 1.9]}, []),
        ({"validation_audio_loss": [1.0, 1.2], "validation_loss": [2, 1.9]}, ["audio drift"]),
        ({"validation_loss": [2, 1.5, 1.6, 1.6, 1.7]}, ["overfitting"]),
        ({"validation_loss": [2, 1.5, 1.6, 1.5, 1.7]}, []),
        ({"validation_loss": [2, 1.5, 1.6, 1.6]}, []),
        ({"validation_loss": [2, 1.6, 1.6]}, []),
    ],
)
def test_alarms_are_for_held_out_losses_that_rise(curves, words) -> None:
    found = alarms(history(**curves), held_out=True)
    assert [text.split(":")[0] for text in found] == words
    assert alarms(history(**curves), held_out=False) == []


def test_a_run_logs_bands_norms_and_both_validation_losses_and_keeps_the_best(settings, cache) -> None:
    path = train_lora(open_run(replace(settings, validation_dataset=str(cache))))
    lines = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    norms = {"grad_norm", "grad_norm_video", "grad_norm_audio", "grad_norm_cross"}
    for line in lines:
        assert norms | {"validation_loss", "validation_video_loss", "validation_audio_loss"} <= line.keys()
        total = sum(line[f"grad_norm_{stream}"] ** 2 for stream in ("video", "audio", "cross"))
        assert line["grad_norm"] == pytest.approx(total**0.5, rel=1e-4)
        bands = [name for name in line if name.startswith("video_loss_")]
        low, high = map(float, bands[0].split("_")[2:])
        assert low <= line["video_sigma"] <= high
        assert line[bands[0]] == pytest.approx(line["video_loss"])
        assert {*LOGGED} >= {name for name in line if name.startswith(("video_", "audio_", "loss"))}
    best = min(range(4), key=lambda n: lines[n]["validation_loss"])
    assert open_lora(path.parent / "lora_best.safetensors").metadata["steps"] == best + 1


def test_a_stream_without_audio_has_no_gradient_of_the_audio(settings) -> None:
    opened = open_run(replace(settings, validation_every=0, steps=2))
    lines: list[dict[str, float]] = []
    train_lora(opened, on_step=lambda _step, _steps, values: lines.append(values))
    # One of the two clips is silent.
    silent = [line for line in lines if "audio_loss" not in line]
    assert len(silent) == 1
    assert silent[0]["grad_norm_audio"] == silent[0]["grad_norm_cross"] == 0
    assert silent[0]["grad_norm_video"] > 0


def test_the_batch_that_broke_a_run_is_saved(settings, cache, tmp_path) -> None:
    broken = tmp_path / "broken"
    (broken / "clips").mkdir(parents=True)
    (broken / "texts").symlink_to(cache / "texts")
    index = Index.load(cache)
    for entry in index.entries:
        tensors = load_file(cache / entry.file)
        save_file({name: tensor * float("inf") for name, tensor in tensors.items()}, broken / entry.file)
    index.save(broken)
    opened = open_run(replace(settings, dataset=str(broken), validation_every=0))
    with pytest.raises(FloatingPointError, match=r"batch is in bad_batch_step_000001\.safetensors"):
        train_lora(opened)
    saved = load_file(opened.files.folder / "bad_batch_step_000001.safetensors")
    assert {"video", "video.sigma", "video.tokens", "text.video"} <= saved.keys()
    assert not saved["video"].isfinite().all()


def test_averages_are_what_is_saved_and_a_stopped_run_keeps_them(settings, tmp_path) -> None:
    run = replace(settings, ema=0.9, validation_every=0)
    whole = train_lora(open_run(run))
    state = load_file(whole.with_name("state.safetensors"))
    b = next(n for n in state if n.startswith("ema/") and n.endswith(".b") and state[n].any())
    assert not torch.equal(state[b], state["model/" + b.removeprefix("ema/")])
    saved = [tensor for name, tensor in load_file(whole).items() if "lora_B" in name]
    assert any(tensor.shape == state[b].shape and torch.equal(tensor, state[b]) for tensor in saved)
    other = replace(run, output_dir=str(tmp_path / "other"))
    train_lora(open_run(other), stop_at=3)
    again = load_file(train_lora(open_run(other)))
    assert all(torch.equal(tensor, again[name]) for name, tensor in load_file(whole).items())


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "dora", "dropout": 0.3},
        pytest.param({"kind": "lokr", "rank_stabilized": True}, marks=pytest.mark.slow),
        {"offload_optimizer": True, "optimizer": "muon"},
        {"epochs": 2, "audio_learning_rate": 1e-6, "key_style": "kohya", "save_minutes": 1e-6},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_kind_of_run_resumes_bit_for_bit(settings, tmp_path, changes) -> None:
    run = replace(settings, validation_every=0, gradient_checkpointing=True, **changes)
    whole = load_file(train_lora(open_run(run)))
    other = replace(run, output_dir=str(tmp_path / "other"))
    train_lora(open_run(other), stop_at=2)
    again = load_file(train_lora(open_run(other)))
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_layers_of_the_audio_have_a_rate_of_their_own(settings) -> None:
    run = replace(settings, validation_every=0, audio_learning_rate=1e-9, optimizer="adamw")
    largest = {"audio": 0.0, "video": 0.0}
    for name, tensor in load_file(train_lora(open_run(run))).items():
        if "lora_B" in name:
            # Attention from video to audio changes the audio.
            audio = ".audio_attn" in name or "video_to_audio" in name
            stream = "audio" if audio else "video"
            largest[stream] = max(largest[stream], float(tensor.abs().max()))
    assert largest["audio"] < 1e-7 < 1e-3 < largest["video"]


def test_a_preset_lora_is_under_the_trained_one_and_belongs_to_the_run(settings, tmp_path) -> None:
    run = replace(settings, steps=1, validation_every=0)
    plain = train_lora(open_run(run))
    out = tmp_path / "on_top"
    on_top = replace(run, output_dir=str(out), preset_loras=(f"{plain}:0.5",))
    path = train_lora(open_run(on_top))
    first, second = (json.loads((p.parent / "log.jsonl").read_text())["loss"] for p in (plain, path))
    assert first != second
    assert open_lora(path).metadata["preset_loras"] == "lora.safetensors:0.5"
    with pytest.raises(ValueError, match="holds another run: preset_lora_digest_0 was"):
        train_lora(open_run(replace(on_top, preset_loras=(f"{plain}:0.6",), steps=1)))
    with pytest.raises(ValueError, match="preset_loras: no file at gone"):
        open_run(replace(run, preset_loras=("gone.safetensors",)))


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", [{"activation_offload": True}, {"blocks_to_swap": 2}])
def test_offloaded_activations_and_swapped_blocks_change_no_number(settings, tmp_path, kind, changes) -> None:
    run = replace(settings, steps=2, kind=kind, gradient_checkpointing=True, validation_every=2)
    plain = train_lora(open_run(run))
    frugal = train_lora(open_run(replace(run, output_dir=str(tmp_path / "frugal"), **changes)))
    first, second = load_file(plain), load_file(frugal)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert plain.with_name("log.jsonl").read_text() == frugal.with_name("log.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_offload": True}, "activation_offload needs gradient_checkpointing"),
        ({"blocks_to_swap": 1}, "blocks_to_swap needs gradient_checkpointing"),
    ],
)
def test_memory_settings_need_checkpointing(settings, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **changes)
