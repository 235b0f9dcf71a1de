"""The recipe of the tiny LTX-2.5 at toy size: it continues the embedded set, and the result runs."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.loading import open_checkpoint
from ltx2_core.run.request import NEGATIVE_PROMPT
from ltx2_core.tiny import embedded_set
from ltx2_core.tiny.continued import CHANGES, compose
from ltx2_core.training.continued import is_changed
from ltx2_core.training.tiny.continued_scales import continued_scale, continued_smoke_scale
from ltx2_core.training.tiny.continued_stages import CONTINUED_NEEDS, CONTINUED_STAGES
from ltx2_core.training.tiny.run import Run
from ltx2_core.training.tiny.scales import full_scale
from ltx2_core.training.tiny.stages import run_stages
from ltx2_core.training.tiny.start import start_from

CLIP = {"width": 64, "height": 64, "num_frames": 9, "fps": 25.0, "steps": 2, "cfg": 2.0}
COMMAND = ["train", "tiny", "--generation", "2.5"]


def make_run(folder, **options) -> Run:
    return Run(
        folder=folder,
        scale=continued_smoke_scale(),
        prompts=("", NEGATIVE_PROMPT),
        progress=False,
        base=embedded_set(),
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    result = CliRunner().invoke(
        main, [*COMMAND, "--out", str(out), "--scale", "smoke", "-q", "--threads", "1"]
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_one_command_makes_a_set_that_the_pipeline_runs(folder) -> None:
    files = make_run(folder).models
    assert files.duration_head is not None
    pipeline = LTX2Pipeline(
        files.checkpoint,
        files.duration_head,
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        video_decoder=files.video_vae,
    )
    result = pipeline("a red circle bounces", **CLIP)
    assert result.array().shape == (9, 64, 64, 3)
    assert torch.isfinite(result.audio()[0]).all()
    assert pipeline.recipe.name == "the tiny set"


@pytest.mark.slow
def test_all_but_what_changes_is_that_of_the_continued_set(folder) -> None:
    files, base = make_run(folder).models, embedded_set()
    new, old = load_file(files.checkpoint), load_file(base.checkpoint)
    assert open_checkpoint(files.checkpoint).generation == "2.5"
    different = {name for name in new if name not in old or not torch.equal(new[name], old[name])}
    assert different
    assert all(is_changed(name) for name in different)
    assert all(is_changed(name) and name.endswith(".bias") for name in old.keys() - new.keys())
    vae = load_file(files.video_vae)
    assert all(torch.equal(vae[name], old[f"vae.{name}"]) for name in vae if name.startswith("encoder."))


@pytest.mark.slow
def test_a_second_call_skips_finished_stages_and_changes_compose_to_the_same_set(folder, tmp_path) -> None:
    run, events = make_run(folder), []
    run_stages(run, on_stage=lambda stage, event: events.append(event))
    assert events == ["exists"] * len(CONTINUED_STAGES)
    again = compose(embedded_set(), run.changes, tmp_path)
    for path, made in ((run.models.checkpoint, again.checkpoint), (run.models.video_vae, again.video_vae)):
        assert path.read_bytes() == made.read_bytes()
    assert (run.changes / CHANGES).stat().st_size < 4_000_000


def test_stages_are_those_of_the_generation(tmp_path) -> None:
    assert CONTINUED_NEEDS.keys() == CONTINUED_STAGES.keys() == continued_scale().minutes.keys()
    listed = CliRunner().invoke(main, [*COMMAND, "--out", str(tmp_path / "new"), "--list"])
    assert listed.exit_code == 0, listed.output
    assert [line.split()[0] for line in listed.output.splitlines()] == [*CONTINUED_STAGES]
    assert not (tmp_path / "new").exists()
    for arguments, message in (
        (["--stage", "edges"], "edges is unknown: choose from text, diffusion-decoder"),
        (["--scale", "gpu"], "--scale gpu is not for --generation 2.5: use full or smoke"),
    ):
        refused = CliRunner().invoke(main, [*COMMAND, "--out", str(tmp_path / "new"), *arguments])
        assert refused.exit_code == 2
        assert message in refused.output
    assert not (tmp_path / "new").exists()


def test_a_set_of_other_widths_is_not_continued(tmp_path, tiny_set) -> None:
    arguments = ["--out", str(tmp_path), "--from", str(tiny_set.checkpoint.parents[1]), "-q"]
    refused = CliRunner().invoke(main, [*COMMAND, *arguments])
    assert refused.exit_code != 0
    assert "has other widths than the embedded set of 2.3" in str(refused.output) + str(refused.exception)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_recipe_of_2_3_can_start_from_the_embedded_set(tmp_path) -> None:
    run = Run(folder=tmp_path, scale=full_scale())
    start_from(run, embedded_set(), ["transformer"])
    assert run.start("transformer").exists()
    assert run.part("vocoder").exists()
