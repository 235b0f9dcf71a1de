"""``ltx2 generate`` on the embedded set, as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ltx2_core.cli.main import main

SMALL = ["--width", "128", "--height", "64", "--frames", "17", "--fps", "8", "--steps", "2", "--stages", "2"]
SMALL += ["--quiet"]


def generate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["generate", "--prompt", "a ball", *map(str, arguments)])


def test_one_command_makes_a_file_with_frames_and_audio_and_prints_where(photo, sound, tmp_path) -> None:
    out = tmp_path / "clip.mp4"
    result = generate("--image", photo, "--audio", sound, "-o", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    with av.open(str(out)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 17
        assert len(file.streams.audio) == 1


def test_progress_names_the_stages(tmp_path) -> None:
    result = generate("-o", tmp_path / "clip.mp4", *SMALL[:-1])
    assert result.exit_code == 0, result.output
    for stage in ("stage 1", "stage 2", "decode"):
        assert stage in result.output


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path) -> None:
    arguments = ["--width", "200", "--seconds", "2", "--stages", "2", "--dry-run"]
    result = generate(*arguments, "-o", tmp_path / "clip.mp4")
    assert result.exit_code == 0, result.output
    for part in ("192x128", "49 frames", "width is 192 instead of 200", "sigmas 1,", "0.909375", "peak"):
        assert part in result.output
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_keeping_the_keys_of_the_text_costs(tmp_path, tiny_set_20) -> None:
    files = ["--checkpoint", tiny_set_20.checkpoint, "--text-encoder", tiny_set_20.text_encoder]
    shape = ["--width", "64", "--height", "64", "--stages", "1", "--frames", "9", "--dry-run"]
    for chosen, words in ((files, " cached"), ([], "nothing, as those of this model")):
        result = generate(*chosen, *shape, "--keep-text-keys", "-o", tmp_path / "clip.mp4")
        assert result.exit_code == 0, result.output
        assert "keys and values of the text: " in result.output
        assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0"], "--width 0"),
        (["--width", "200", "--stages", "2", "--snap", "error"], "multiple of 64"),
        (["--seconds", "2", "--frames", "17"], "both set the length"),
        (["--fps", "nan"], "fps"),
        (["--image", "missing.png"], "missing.png"),
        (["--audio", "missing.wav"], "missing.wav"),
        (["--lora", "missing.safetensors:0.5"], "missing.safetensors"),
        (["--checkpoint", "missing.safetensors"], "missing.safetensors"),
        (["--sigmas", "1, 2"], "sigma"),
        (["-o", "no/such/folder/clip.mp4"], "folder"),
    ],
)
def test_bad_input_ends_with_one_line_and_no_file(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [] if "--frames" in arguments or "--width" in arguments else SMALL
    result = generate(*small, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_corrupt_images_audio_and_checkpoints_are_named(tmp_path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for option in ("--image", "--audio", "--checkpoint", "--lora"):
        result = generate(option, broken, "-o", tmp_path / "clip.mp4", *SMALL)
        assert result.exit_code == 2, option
        assert "broken.bin" in result.output, option
    assert list(tmp_path.iterdir()) == [broken]


def test_a_checkpoint_without_its_parts_says_what_is_missing(tmp_path) -> None:
    from ltx2_core.tiny import embedded_set

    files = embedded_set()
    result = generate("--checkpoint", files.checkpoint, "-o", tmp_path / "clip.mp4", *SMALL)
    assert result.exit_code == 2
    assert "text" in result.output
    result = generate(
        "--checkpoint",
        files.upsampler,
        "--text-encoder",
        files.text_encoder,
        "-o",
        tmp_path / "clip.mp4",
        *SMALL,
    )
    assert result.exit_code == 2
    assert "upsampler" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_control_c_stops_at_once_and_leaves_nothing(tmp_path) -> None:
    command = [sys.executable, "-m", "ltx2_core.cli.main", "generate", "--prompt", "x", "--steps", "10000"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "clip.mp4")],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        text=True,
        # A shell that runs the tests in the background has told its children to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    seen = ""
    while "stage 1" not in seen:
        character = process.stderr.read(1)
        assert character, seen
        seen += character
    process.send_signal(signal.SIGINT)
    process.wait(timeout=1800)
    assert process.returncode != 0
    printed = process.stderr.read()
    assert "Traceback" not in printed
    assert "10000/10000" not in printed
    assert not list(tmp_path.iterdir())


def test_the_settings_in_a_file_repeat_it_bit_for_bit(photo, tmp_path) -> None:
    first, again, other = (tmp_path / f"{name}.mp4" for name in ("first", "again", "other"))
    sampling = ["--sampler", "res_2s", "--eta", "0.3", "--stg", "1", "--modality", "2", "--audio-cfg", "3"]
    sampling += ["--rescale", "0.5", "--seed", "7", "--image", photo, "--cfg-star", "--to-sigma", "0.5"]
    sampling += ["--audio-skip-steps", "1"]
    result = generate(*sampling, "--dtype", "float32", "-o", first, *SMALL)
    assert result.exit_code == 0, result.output
    repeat = ["generate", "--from-file", str(first), "--quiet"]
    result = CliRunner().invoke(main, [*repeat, "-o", str(again)])
    assert result.exit_code == 0, result.output
    assert packets(again) == packets(first)
    result = CliRunner().invoke(main, [*repeat, "--seed", "8", "-o", str(other)])
    assert result.exit_code == 0, result.output
    assert packets(other) != packets(first)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux() if packet.size]


@pytest.mark.parametrize("preset", ["distilled 8", "dev 30 guided", "quality res_2s 15"])
def test_a_preset_is_shown_in_the_plan(preset, tmp_path) -> None:
    result = generate("--preset", preset, "--dry-run", "-o", tmp_path / "clip.mp4", *SMALL[:6])
    assert result.exit_code == 0, result.output
    expected = {"distilled 8": "8 steps, euler, no", "dev 30 guided": "30 steps, euler, 4 passes"}
    assert expected.get(preset, "15 steps, res_2s, 3 passes") in result.output


@pytest.mark.parametrize(
    ("image", "more", "strength"),
    [("{}", [], 0.6), ("{}:0.5", [], 0.5), ("{}", ["--image-strength", "0.7"], 0.7), ("{}@8", [], 1)],
)
def test_the_preset_for_images_preserves_less_of_the_first_one(image, more, strength, tmp_path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(file)
    words = ["--preset", "image res_2s 25", "--image", image.format(file), *more, "--dry-run"]
    result = generate(*words, "-o", tmp_path / "clip.mp4", *SMALL[:6])
    assert result.exit_code == 0, result.output
    assert "25 steps, res_2s, 2 passes" in result.output
    # A keyframe has the strength that its own text says.
    assert f"strength {strength}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-file", "missing.mp4"], "missing.mp4"),
        (["--cache", "magic:0.1"], "first_block"),
        (["--cache", "first_block:x"], "no number"),
        (["--eta", "0.5"], "no meaning"),
        (["--stg", "1", "--stg-blocks", "a"], "block numbers"),
        (["--nag-tau", "2"], "--nag"),
        (["--rescale", "3"], "--rescale 3"),
        (["--skip-steps", "-1"], "--skip-steps -1"),
        (["--passes-per-call", "0"], "--passes-per-call 0"),
    ],
)
def test_sampling_options_without_meaning_end_with_one_line(arguments, message, tmp_path) -> None:
    result = generate(*SMALL, *arguments, "-o", tmp_path / "clip.mp4")
    assert result.exit_code == 2, result.output
    assert message in result.output, result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_without_a_prompt_and_without_a_file_there_is_nothing_to_make() -> None:
    result = CliRunner().invoke(main, ["generate"])
    assert result.exit_code == 2
    assert "--prompt" in result.output
