"""Settings of a LoRA run: from a file, from options, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.previews import parse_options
from ltx2_core.trainer.settings import FullSettings, LoraSettings
from ltx2_core.trainer.settings_file import read_settings
from ltx2_core.trainer.warnings import warnings_of
from ltx2_core.trainer.within_memory import settings_within

toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="toml needs Python 3.11")


@toml
def test_options_replace_the_keys_of_a_file_and_paths_are_relative_to_it(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('dataset = "cache"\nrank = 8\nalpha = 4\nconditions = ["first_frame:0.5"]\n')
    settings = read_settings(file, {"rank": 16}, LoraSettings)
    assert (settings.rank, settings.lora_alpha, settings.conditions) == (16, 4.0, ("first_frame:0.5",))
    assert settings.dataset == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"rnak": 8}, "there is no key 'rnak': did you mean rank"),
        ({"network_dim": 8}, "network_dim is called rank here"),
        ({"rank": "8"}, "rank='8' must be a whole number"),
        ({"rank": True}, "rank=True must be a whole number"),
        ({"rank": 0}, "rank=0 must be from 1 to 4096"),
        ({"learning_rate": "fast"}, "must be a number"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"schedule": "lineer"}, "must be one of constant, linear"),
        ({"conditions": [1]}, "conditions must be a list of texts"),
        ({"official": 1}, "must be true or false"),
        ({"dataset": ""}, "dataset is missing"),
        ({"sigma_std": float("nan")}, "at least 0"),
        (["rank"], "must hold keys and values"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_words(tmp_path, text, message) -> None:
    file = tmp_path / "run.json"
    values = {"dataset": "cache", **text} if isinstance(text, dict) else text
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        read_settings(file, {}, LoraSettings)


@pytest.mark.parametrize(("command", "kind"), [("lora", LoraSettings), ("full", FullSettings)])
def test_every_setting_is_an_option_with_a_help(command, kind) -> None:
    done = CliRunner().invoke(main, ["train", command, "--help"])
    assert done.exit_code == 0
    for name, one in kind.__dataclass_fields__.items():
        assert f"--{name.replace('_', '-')}" in done.output
        assert one.metadata["help"].endswith((".", "]"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--rank 4", "dataset is missing"),
        ("--dataset nowhere", "no encoded dataset"),
        ("--dataset . --rank 0", "rank=0"),
        ("--config gone.toml", "no configuration at gone.toml"),
    ],
)
def test_a_run_that_cannot_start_ends_with_one_line(tmp_path, monkeypatch, line, message) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["train", "lora", *line.split()])
    assert done.exit_code == 2
    assert message in done.output


def test_options_of_previews_are_numbers_words_and_switches() -> None:
    assert parse_options(["width=64", "cfg=1.5", "stage-two=false", "sampler=euler"]) == {
        "width": 64,
        "cfg": 1.5,
        "stage_two": False,
        "sampler": "euler",
    }
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_options(["width"])


def test_the_memory_of_a_gpu_chooses_what_is_not_written(cache) -> None:
    values = {"dataset": str(cache), "rank": 8}
    plain, notes = settings_within(values, LoraSettings)
    assert (plain.rank, plain.optimizer, notes) == (8, "adamw", [])
    found, notes = settings_within({**values, "max_memory": "8GB", "steps": 5}, LoraSettings)
    assert (found.rank, found.steps, found.blocks_to_swap) == (8, 5, 0)
    assert notes[0].startswith("peak ")
    assert notes[1] == "chosen for 8GB: optimizer adamw, blocks_to_swap 0, activation_offload false"
    for wrong, message in (
        ({"max_memory": "much"}, "max_memory: 'much'"),
        ({"max_memory": "100MB"}, "max_memory=100MB: these clips need at least peak"),
        ({"max_memory": "8GB", "gradient_checkpointing": False}, "plans with gradient_checkpointing"),
    ):
        with pytest.raises(ValueError, match=message):
            settings_within({**values, **wrong}, LoraSettings)


def test_the_memory_that_must_fit_is_that_of_the_settings_that_are_written(cache) -> None:
    values = {"dataset": str(cache), "max_memory": "2GB"}
    _, [free, _] = settings_within(values, LoraSettings)
    _, [high, _] = settings_within({**values, "rank": 1024}, LoraSettings)
    assert free.split("LoRA and optimizer")[1] != high.split("LoRA and optimizer")[1]
    settings, [_, told] = settings_within({**values, "optimizer": "muon"}, LoraSettings)
    assert (settings.optimizer, told) == (
        "muon",
        "chosen for 2GB: rank 32, blocks_to_swap 0, activation_offload false",
    )
    peak = "max_memory=BUDGET: these clips need at least peak .* with the rank, optimizer that is written.*"
    wrong = {**values, "max_memory": "900MB", "rank": 1024, "optimizer": "adamw"}
    settings_within({**values, "max_memory": "900MB"}, LoraSettings)
    with pytest.raises(ValueError, match=peak.replace("BUDGET", "900MB") + "or leave out rank or optimizer"):
        settings_within(wrong, LoraSettings)


def test_a_run_warns_of_what_makes_it_fail(cache, tmp_path) -> None:
    index = Index.load(cache)
    assert list(warnings_of(Path("ltx-2.3-dev.safetensors"), index, index)) == []
    held = replace(index, entries=(replace(index.entries[0], captions=("a red circle",)), index.entries[1]))
    found = list(warnings_of(Path("ltx-2.3-distilled.safetensors"), index, held))
    assert ["distilled" in found[0], "without the trigger 'zorb'" in found[1]] == [True, True]
    assert "ordinary word" in next(warnings_of(Path("a"), replace(index, trigger="the cat"), None))


@pytest.mark.parametrize(("written", "mean"), [("tokens", None), ("1.5", 1.5), ("0", 0.0), ("-2", -2.0)])
def test_the_shift_of_noise_levels_is_by_tokens_or_as_written(cache, tmp_path, written, mean) -> None:
    settings = LoraSettings(
        dataset=str(cache), output_dir=str(tmp_path), device="cpu", sigma_shift=written, uniform_prob=0.0
    )
    sampling = open_run(settings).objective.sigmas
    assert sampling.shift == mean
    normal, unused = torch.linspace(-1, 1, 5), torch.zeros(5)
    few, many = (sampling.of_draws(normal, unused, unused + 1, tokens) for tokens in (64, 4096))
    assert torch.equal(few, many) is (mean is not None)


@pytest.mark.parametrize("written", ["much", "", "nan", "inf", "11"])
def test_a_shift_that_is_no_sensible_number_is_refused(cache, tmp_path, written) -> None:
    settings = LoraSettings(dataset=str(cache), output_dir=str(tmp_path), device="cpu", sigma_shift=written)
    with pytest.raises(ValueError, match=r"sigma_shift=.*must be"):
        open_run(settings)


def test_saves_by_passes_over_the_dataset_and_the_bound_of_noise_levels_reach_the_run(
    cache, tmp_path
) -> None:
    settings = LoraSettings(
        dataset=str(cache), output_dir=str(tmp_path), device="cpu", save_every_epochs=3, sigma_eps=0.2
    )
    opened = open_run(settings)
    assert opened.settings.save_every == 3 * opened.samples.per_epoch == 6
    assert opened.objective.sigmas.eps == 0.2
