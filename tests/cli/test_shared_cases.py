"""The inputs of the shared folder of cases give the values that its README lists; skipped without the folder.

``LTX2_CASES_DIR`` names it; otherwise it is looked for next to the checkout. Each kind has tests of its own,
on files that they write themselves.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ltx2_core.cli.main import main
from ltx2_core.editing import PromptSchedule
from ltx2_core.media import VideoWriter, read_video

ROOT = Path(__file__).parents[2]
CASES = Path(os.environ.get("LTX2_CASES_DIR", ROOT.parent / "shared" / "cases"))
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


@pytest.mark.slow
def test_a_model_configuration_reaches_no_code_loading(tmp_path):
    """In a process of its own, because the script installs a package that tells when it is called."""
    script = CASES / "durability" / "kernel_from_config.py"
    environment = {**os.environ, "PROJECT": str(ROOT), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "get_kernel called" not in ran.stdout + ran.stderr
    assert "loaded" in ran.stdout or "_attn_implementation" in ran.stderr


def test_frames_that_x264_writes_in_several_ways_make_one_file(tmp_path):
    raw = np.fromfile(CASES / "durability" / "raw64.yuv", np.uint8)[: 40 * 6144].reshape(-1, 96, 64)
    images = np.stack(
        [av.VideoFrame.from_ndarray(one, format="yuv420p").to_ndarray(format="rgb24") for one in raw]
    )
    frames = torch.from_numpy(images).movedim(3, 1).float() / 127.5 - 1
    files = set()
    for number in range(10):
        saved = tmp_path / f"{number}.mp4"
        with VideoWriter(saved, width=64, height=64, fps=25.0, sample_rate=None) as writer:
            writer.write_frames(frames)
        files.add(saved.read_bytes())
    assert len(files) == 1


def test_prompts_of_one_line_are_two_parts():
    schedule = PromptSchedule.parse("0: a red circle; 30: a blue square")
    assert schedule.parts == ((0, "a red circle"), (30, "a blue square"))


def test_a_region_beyond_the_clip_offers_extend(models):
    words = ["retake", "--video", CASES / "media" / "offa.mkv", "--prompt", "a", "--video-region", "10-10.2"]
    refused = ltx2(*words, *models, "--dry-run")
    assert refused.exit_code == 2
    assert "extend" in refused.output


def test_two_images_are_both_in_the_plan(models, tmp_path):
    images = [tmp_path / name for name in ("first.png", "last.png")]
    for path in images:
        Image.new("RGB", (64, 64)).save(path)
    words = ["--prompt", "a", "--width", "64", "--height", "64", "--frames", "9", "--dry-run"]
    planned = ltx2("generate", *models, "--image", images[0], "--image", f"{images[1]}@-1:0.7", *words)
    assert planned.exit_code == 0
    assert all(path.name in planned.output for path in images)
