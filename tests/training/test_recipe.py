"""The whole recipe at toy size: it trains a set that loads and runs, and resumes."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.run.request import NEGATIVE_PROMPT
from ltx2_core.training.tiny.run import Run, Unfinished
from ltx2_core.training.tiny.scales import full_scale, smoke_scale
from ltx2_core.training.tiny.stages import NEEDS, STAGES, run_stages
from ltx2_core.training.tiny.start import start_from

CLIP = {"width": 128, "height": 64, "num_frames": 9, "fps": 25.0, "steps": 2, "cfg": 2.0}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    result = CliRunner().invoke(
        main,
        ["train", "tiny", "--out", str(out), "--scale", "smoke", "-q", "--threads", "1", "--workers", "2"],
    )
    assert result.exit_code == 0, result.output
    return out


def make_run(folder, **options) -> Run:
    return Run(folder=folder, scale=smoke_scale(), prompts=("", NEGATIVE_PROMPT), progress=False, **options)


def test_one_command_trains_a_set_that_the_pipeline_runs(folder) -> None:
    run = make_run(folder)
    files = run.models
    pipeline = LTX2Pipeline(
        files.checkpoint,
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        stage2_loras=[(run.distilled, 1.0)],
    )
    result = pipeline("a red circle bounces", stages=2, **CLIP)
    assert result.array().shape == (9, 64, 128, 3)
    waveform, rate = result.audio()
    assert rate == 48000
    assert torch.isfinite(waveform).all()


def test_the_loras_fit_the_transformer_and_the_edges_lora_is_an_ic_lora(folder) -> None:
    run = make_run(folder)
    checkpoint = open_checkpoint(run.models.checkpoint)
    for path in (run.distilled, run.edges):
        report = checkpoint.lora_report(Component.TRANSFORMER, open_lora(path))
        assert report.matched
        assert not report.unmatched
        assert not report.shape_mismatched
    assert open_lora(run.edges).metadata["reference_downscale_factor"] == 1


def test_a_second_call_skips_finished_stages(folder) -> None:
    events = []
    run_stages(make_run(folder), on_stage=lambda stage, event: events.append(event))
    assert events == ["exists"] * len(STAGES)
    assert json.loads((folder / "cost.json").read_text()).keys() == set(STAGES)


def test_a_stage_stopped_by_the_time_limit_is_finished_by_the_next_call(folder, tmp_path) -> None:
    first, again = make_run(folder), make_run(tmp_path)
    for name in ("models", "parts", "latents"):
        (tmp_path / name).symlink_to(folder / name)
    before = load_file(first.part("transformer"))
    moved = first.part("transformer").rename(tmp_path / "before")
    try:
        with pytest.raises(Unfinished, match="transformer has done 0 of 2 steps"):
            run_stages(make_run(tmp_path, max_seconds=0), ["transformer"])
        run_stages(again, ["transformer"])
        after = load_file(first.part("transformer"))
    finally:
        moved.rename(first.part("transformer"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_a_stage_without_its_inputs_and_unknown_stages_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="latents needs text, video-code, audio-vae first"):
        run_stages(make_run(tmp_path), ["latents"])
    with pytest.raises(ValueError, match="unknown stages nonsense"):
        run_stages(make_run(tmp_path), ["nonsense"])
    assert NEEDS.keys() == STAGES.keys()


def test_the_command_lists_expected_minutes_without_starting(tmp_path) -> None:
    out = tmp_path / "new"
    result = CliRunner().invoke(main, ["train", "tiny", "--out", str(out), "--list"])
    assert result.exit_code == 0
    assert not out.exists()
    for stage in STAGES:
        assert stage in result.output
    assert "min on 2 cores" in result.output
    assert full_scale().minutes.keys() == STAGES.keys()


def test_a_run_can_start_from_the_weights_of_a_set(folder, tmp_path) -> None:
    models = make_run(folder).models
    arguments = [
        "train",
        "tiny",
        "--out",
        str(tmp_path),
        "--scale",
        "smoke",
        "-q",
        "--threads",
        "1",
        "--workers",
        "2",
    ]
    arguments += ["--from", str(folder / "models"), "--stage", "video-decoder", "--stage", "export"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    before, after = load_file(models.checkpoint), load_file(make_run(tmp_path).models.checkpoint)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("vae.decoder.") for name in changed)


def test_starting_from_a_set_is_refused_for_foundations_and_for_other_widths(folder, tmp_path) -> None:
    models = make_run(folder).models
    with pytest.raises(ValueError, match="video-code: every other part depends on these"):
        start_from(make_run(tmp_path), models, ["video-code"])
    with pytest.raises(ValueError, match="has other widths than this scale"):
        start_from(Run(folder=tmp_path, scale=full_scale()), models, ["transformer"])
    assert not list(tmp_path.rglob("*.safetensors"))
