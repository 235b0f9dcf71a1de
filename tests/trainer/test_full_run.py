"""A run that trains all weights: resumed bit for bit, on any number of processes, saved as a model file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.convert import convert, single_parts
from ltx2_core.run.pipeline import LTX2Pipeline
from ltx2_core.tiny import embedded_set
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.fitting import check_parameters
from ltx2_core.trainer.full_run import train_full
from ltx2_core.trainer.models import open_networks
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.settings import FullSettings

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "model.diffusion_model."
LAYER = "transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def settings(cache, tmp_path) -> FullSettings:
    return FullSettings(
        dataset=str(cache),
        output_dir=str(tmp_path / "run"),
        device="cpu",
        steps=3,
        save_every=1,
        keep_last=1,
        validation_every=0,
        learning_rate=1e-3,
        gradient_checkpointing=False,
        save_precision="float32",
        parameters=(r"blocks\.0\.(audio_)?attn1\.", "^proj_out"),
    )


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items())


def changed(path: Path) -> set[str]:
    """The parameters that differ from those of the embedded set."""
    base = open_checkpoint(embedded_set().checkpoint).load(Component.TRANSFORMER, dtype=torch.float32)
    trained, before = load_file(path), base.state_dict()
    return {n for n, t in before.items() if not torch.equal(trained[PREFIX + n].float(), t)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"weights": "bf16", "save_precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"weights": "bf16_rounded", "save_precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adafactor", "offload_optimizer": True}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "muon", "ema": 0.9}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "+".join(map(str, changes.values())) or "plain",
)
def test_a_stopped_run_ends_with_the_weights_of_an_uninterrupted_one(settings, tmp_path, changes) -> None:
    run = replace(settings, **changes)
    whole = train_full(open_run(run))
    other = replace(run, output_dir=str(tmp_path / "other"))
    train_full(open_run(other), stop_at=2)
    assert same(whole, train_full(open_run(other)))
    moved = changed(whole)
    assert LAYER in moved
    assert all(name.startswith(("transformer_blocks.0.", "proj_out")) for name in moved)
    lines = [json.loads(line) for line in (whole.parent / "log.jsonl").read_text().splitlines()]
    assert {"grad_norm_video", "video_loss"} <= lines[0].keys()


def test_the_saved_file_stands_for_the_one_that_held_the_transformer(settings) -> None:
    path = train_full(open_run(replace(settings, steps=1)))
    assert path.name == "model.safetensors"
    tiny = embedded_set()
    base = open_checkpoint(tiny.checkpoint)
    assert open_checkpoint(path).components == base.components
    before, after = load_file(tiny.checkpoint), load_file(path)
    others = [name for name in before if not name.startswith(PREFIX)]
    assert len(others) > 100
    assert all(torch.equal(before[name], after[name]) for name in others)
    LTX2Pipeline(path, text_encoder=tiny.text_encoder, device="cpu")
    with open_networks([path], tiny.text_encoder, device="cpu").use(Component.TRANSFORMER) as network:
        assert torch.equal(network.get_parameter(LAYER), after[PREFIX + LAYER])
    assert not torch.equal(before[PREFIX + LAYER], after[PREFIX + LAYER])


def test_float32_copies_take_changes_that_bfloat16_would_lose(settings, tmp_path) -> None:
    small = replace(settings, learning_rate=1e-6, weight_decay=0.0, schedule="constant", steps=2)
    whole = replace(small, weights="bf16", save_precision="bf16")
    state = train_full(open_run(whole)).with_name("state.safetensors")
    held = load_file(state)
    name = f"model/{LAYER}"
    # 1e-6 is below half a step of bfloat16 for most weights, so that the copies alone have moved.
    assert torch.equal(held[f"copy/{LAYER}"].bfloat16(), held[name])
    assert not torch.equal(held[f"copy/{LAYER}"], held[name].float())
    rounded = replace(whole, weights="bf16_rounded", output_dir=str(tmp_path / "rounded"))
    moved = load_file(train_full(open_run(rounded)).with_name("state.safetensors"))[name]
    base = open_checkpoint(embedded_set().checkpoint).load(Component.TRANSFORMER, dtype=torch.bfloat16)
    assert 0 < (moved != base.get_parameter(LAYER)).float().mean() < 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": ("nothing",)}, "parameters=nothing: the transformer has no such parameter"),
        ({"parameters": ("(",)}, "is not a regular expression"),
        ({"weights": "bf16_rounded", "optimizer": "muon"}, "weights=bf16_rounded is for optimizer=adamw"),
        ({"weights": "bf16_rounded", "offload_optimizer": True}, "has no copies to offload"),
        ({"sharding": "fsdp", "ema": 0.9}, "sharding=fsdp trains float32 weights, without ema"),
        ({"sharding": "fsdp", "optimizer": "muon"}, "sharding=fsdp is for optimizer=adamw or adafactor"),
        ({"sharding": "fsdp"}, "some clips have audio and some have none"),
        ({"optimizer": "muon", "audio_learning_rate": 1e-4}, "optimizer=muon has one learning rate"),
        ({"optimizer": "sgd"}, "optimizer='sgd' must be one of adamw"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(settings, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        open_run(replace(settings, **changes))
    assert not Path(settings.output_dir).exists()


def test_quantised_weights_are_refused(settings, tmp_path) -> None:
    source = open_checkpoint(embedded_set().checkpoint)
    fp8 = tmp_path / "fp8.safetensors"
    convert(fp8, [source], single_parts([source]), fp8=True)
    with pytest.raises(ValueError, match="holds weights in F8_E4M3, which cannot be trained"):
        check_parameters(open_checkpoint(fp8), settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["full", "--parameters", "blocks.0.", "--ema", "0.9", "--learning-rate", "0.001"],
        ["full", "--sharding", "fsdp", "--learning-rate", "0.001", "--gradient-checkpointing"],
        ["lora", "--rank", "2", "--targets", "attention", "--learning-rate", "0.01"],
    ],
    ids=["full-ddp", "full-fsdp", "lora-ddp"],
)
def test_two_processes_do_the_steps_of_one_with_the_same_global_batch(cache, tmp_path, words) -> None:
    dataset = Path(cache)
    if "fsdp" in words:
        # Every process must compute the same streams.
        dataset = tmp_path / "alike"
        dataset.mkdir()
        for name in ("clips", "texts"):
            (dataset / name).symlink_to(Path(cache) / name)
        index = Index.load(Path(cache))
        replace(index, entries=index.entries[:1] * 2).save(dataset)
    common = [*words, "--dataset", dataset, "-q", "--device", "cpu", "--steps", "2", "--save-every", "1"]
    common += ["--validation-every", "2", "--save-precision", "float32"]

    def run(count: int, accumulation: int, out: Path, *more: object) -> dict[str, torch.Tensor]:
        start = [sys.executable, "-m"]
        if count > 1:
            start += ["torch.distributed.run", "--nproc-per-node", str(count), "--standalone", "-m"]
        command = [*start, "ltx2_core.cli.main", "train", *common, "--output-dir", out, *more]
        command += ["--gradient-accumulation", accumulation]
        subprocess.run([str(word) for word in command], cwd=ROOT, check=True)
        return load_file(out / ("lora.safetensors" if words[0] == "lora" else "model.safetensors"))

    one, two = run(1, 2, tmp_path / "one"), run(2, 1, tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=2e-5, msg=name)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-3)
    # Either may resume the other.
    state = tmp_path / "two" / "state.safetensors"
    assert load_file(state).keys() == load_file(tmp_path / "one" / "state.safetensors").keys()
