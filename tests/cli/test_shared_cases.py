"""The inputs of the shared folder of cases give the values that its README lists; skipped without the folder.

``LTX2_CASES_DIR`` names it; otherwise it is looked for next to the checkout. Each kind has tests of its own,
on files that they write themselves.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import read_video

CASES = Path(os.environ.get("LTX2_CASES_DIR", Path(__file__).parents[3] / "shared" / "cases"))
QUICK = ["--steps", "1", "--cfg", "1", "--quiet"]

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared folder of cases")


def ltx2(*words: object):
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran


@pytest.fixture
def models(tiny_set) -> list[object]:
    return ["--checkpoint", tiny_set.checkpoint, "--text-encoder", tiny_set.text_encoder]


def flash_and_click(path: Path) -> tuple[float, float | None]:
    """When the frames turn white and when the audio begins, in seconds, from the time stamps of the file."""
    with av.open(str(path)) as file:
        shown = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        heard = [
            frame.time + int(np.argmax(loud)) / frame.sample_rate
            for frame in file.decode(audio=0)
            if (loud := np.abs(frame.to_ndarray()[0]) > 0.2).any()
        ]
    return next(time for time, level in shown if level > 150), heard[0] if heard else None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flash", "click"), [("vfr.mp4", 1.5, 1.5), ("offa.mkv", 1.517, 2.0)])
def test_an_extended_clip_keeps_the_times_of_its_source(models, tmp_path, name, flash, click):
    saved = tmp_path / "o.mp4"
    source = ["--video", CASES / "media" / name, "--prompt", "a", "--seconds", "0.5"]
    assert ltx2("extend", *source, *models, *QUICK, "-o", saved).exit_code == 0
    fps = read_video(saved).fps
    found = flash_and_click(saved)
    assert found == (pytest.approx(flash, abs=0.5 / fps), pytest.approx(click, abs=0.5 / fps))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vfr_flash.mp4", "odd853.mkv"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_added_audio_leaves_the_packets_and_their_times(models, tmp_path, name, suffix):
    source, saved = CASES / "media" / name, tmp_path / f"o.{suffix}"
    made = ltx2("sound", "--video", source, "--prompt", "a", *models, *QUICK, "-o", saved)
    assert made.exit_code == 0, made.output

    def packets(path: Path) -> list[tuple[int, bytes]]:
        with av.open(str(path)) as file:
            read = [packet for packet in file.demux(file.streams.video[0]) if packet.size]
            return [(round(1000 * packet.pts * packet.time_base), bytes(packet)) for packet in read]

    before, after = packets(source), packets(saved)
    assert [content for _, content in after] == [content for _, content in before]
    assert [time for time, _ in after] == pytest.approx([time - before[0][0] for time, _ in before], abs=1)


def test_an_upscaler_of_one_and_a_half_is_planned_or_refused_before_stage_1(models, tmp_path, monkeypatch):
    upscaler = tmp_path / "x15.safetensors"
    monkeypatch.setattr("sys.argv", ["make_x15.py", str(upscaler)])
    runpy.run_path(str(CASES / "files" / "make_x15.py"), run_name="__main__")
    words = ["--prompt", "a", "--upscaler", upscaler, "--stages", "2", "--steps", "2", "--dry-run"]
    planned = ltx2("generate", *models, *words, "--width", "192", "--height", "192", "--frames", "9")
    assert planned.exit_code == 0
    assert "stage 1   128x128" in planned.output
    assert "stage 2   192x192" in planned.output
    assert "spatial x1.5" in ltx2("inspect", upscaler).output


def test_a_lora_with_two_prefixes_matches_the_embedded_model(tmp_path):
    lora = CASES / "files" / "f6_prefix_order.safetensors"
    words = ["--prompt", "a", "--width", "64", "--height", "64", "--frames", "9", "--dry-run"]
    assert "2 of 2 layers" in ltx2("generate", "--lora", lora, *words).output
    inspected = ltx2("inspect", lora)
    assert inspected.exit_code == 0
    assert "LoRA" in inspected.output
