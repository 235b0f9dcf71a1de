"""Previews of a LoRA run, and what is left of a run that is killed."""

from __future__ import annotations

import math
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ltx2_core.cli.main import main
from ltx2_core.media import read_audio, read_video
from ltx2_core.trainer.lora_run import train_lora
from ltx2_core.trainer.models import open_networks
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.previews import Previews
from ltx2_core.trainer.settings import LoraSettings

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill_points import Ran, ltx2, run, spread

from .conftest import check_equal


def test_previews_that_a_killed_run_did_not_finish_are_made_when_it_is_resumed(short_run) -> None:
    run = replace(short_run, preview_prompts=("zorb",), preview_every=2)
    shown: list[int] = []

    def show(step: int, _path: Path | None) -> None:
        shown.append(step)

    train_lora(open_run(run), on_save=show, stop_at=2)
    train_lora(open_run(run), on_save=show)
    assert shown == [0, 2, 2, 3]
    last = open_run(run).files.preview(3, 1)
    last.parent.mkdir()
    last.touch()
    train_lora(open_run(run), on_save=show)
    assert shown == [0, 2, 2, 3], "what is there is not made again"


def previewed(settings: LoraSettings, dtype: torch.dtype) -> tuple[Path, Path]:
    """A preview of a run in ``dtype`` after its last step, and the clip of ``ltx2 generate --lora``."""
    options = ("width=64", "height=64", "num_frames=9", "steps=2")
    prompt, name = "a red circle", str(dtype).removeprefix("torch.")
    run = replace(settings, steps=1, preview_prompts=(prompt,), preview_options=options)
    run = replace(run, mixed_precision="no" if dtype == torch.float32 else "bf16")
    opened = replace(open_run(run), networks=open_networks((), None, device="cpu", dtype=dtype))
    path = train_lora(opened, on_save=Previews(opened))
    assert opened.files.preview(0, 1).is_file()
    assert not opened.files.comparison(0).exists()
    with Image.open(opened.files.comparison(1)) as image:
        # Two rows of five frames.
        assert image.size == (5 * 198 + 6, 2 * (18 + 192 + 12))
    again = path.with_name("again.mp4")
    words = f"--width 64 --height 64 --frames 9 --steps 2 --seed 0 --device cpu --dtype {name} -q"
    done = CliRunner().invoke(
        main, ["generate", "--prompt", prompt, "--lora", str(path), *words.split(), "-o", str(again)]
    )
    assert done.exit_code == 0, done.output
    return opened.files.preview(1, 1), again


@pytest.mark.slow
def test_a_preview_equals_a_later_generation_with_the_saved_lora(settings) -> None:
    preview, again = previewed(settings, torch.float32)
    assert torch.equal(read_video(preview).read(), read_video(again).read())
    (one, rate), (other, _) = read_audio(preview), read_audio(again)
    assert rate > 0
    assert torch.equal(one, other)


@pytest.mark.slow
def test_a_preview_in_bfloat16_is_that_of_a_later_generation(settings) -> None:
    one, other = (read_video(path).read().float() for path in previewed(settings, torch.bfloat16))
    error = float((one - other).square().mean())
    assert error == 0 or 10 * math.log10(255**2 / error) >= 45


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and no SIGKILL")
def test_a_run_that_is_killed_at_any_of_twenty_points_ends_with_the_same_files(settings, tmp_path) -> None:
    command = [
        *("train", "lora", "-q", "--no-gradient-checkpointing"),
        *("--dataset", settings.dataset, "--device", "cpu", "--rank", "2"),
        *("--alpha", "4", "--steps", "4", "--save-every", "1", "--validation-every", "2", "--keep-last", "2"),
        *("--learning-rate", "0.01", "--save-precision", "float32", "--targets", settings.targets[0]),
        *("--preview-prompts", "zorb", "--preview-every", "2", "--ema", "0.5"),
    ]
    for option in ("width=64", "height=64", "num_frames=9", "steps=1", "stages=1"):
        command += ["--preview-options", option]

    def listed(folder: Path) -> list[str]:
        # What a killed run had written of a clip stays as a hidden file.
        return sorted(file.name for file in (folder / "previews").glob("[!.]*"))

    def ran(name: str, kill_at: int | None = None) -> Ran:
        words = [*command, "--output-dir", str(tmp_path / name)]
        return run(ltx2, *words, folder=tmp_path / f"files of {name}", kill_at=kill_at)

    undisturbed = ran("undisturbed")
    assert undisturbed.code == 0, undisturbed.output
    assert {"training step", "write", "rename", "renamed", "encode", "unlink"} <= set(undisturbed.events)
    points = spread(undisturbed.events, 20)
    assert len(points) >= 20
    for kill_at in points:
        name = f"at {kill_at}"
        killed = ran(name, kill_at)
        assert killed.code == -signal.SIGKILL, (undisturbed.events[kill_at], killed.output)
        again = ran(name)
        assert again.code == 0, (undisturbed.events[kill_at], again.output)
        whole, resumed = tmp_path / "undisturbed", tmp_path / name
        check_equal(whole / "lora.safetensors", resumed / "lora.safetensors")
        assert (whole / "log.jsonl").read_text() == (resumed / "log.jsonl").read_text()
        assert listed(whole) == listed(resumed), undisturbed.events[kill_at]
        for preview in sorted((whole / "previews").glob("*.mp4")):
            again_shown = read_video(resumed / "previews" / preview.name).read()
            assert torch.equal(read_video(preview).read(), again_shown), undisturbed.events[kill_at]
