"""Help and completion of every command come from the table, by group, without an import of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import SUBCOMMANDS, main
from ltx2_core.cli.options import reference_markdown
from ltx2_core.run.options import COMMANDS, GROUPS, options_of

ROOT = Path(__file__).resolve().parents[2]
HELP = """
import sys
from ltx2_core.cli.main import main
try:
    main({arguments!r}, prog_name="ltx2")
except SystemExit:
    pass
heavy = [name for name in ("torch", "numpy", "transformers", "pydantic", "av") if name in sys.modules]
sys.exit(", ".join(heavy) or 0)
"""


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_help_does_not_import_torch(command):
    code = HELP.format(arguments=[command, "--help"])
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout, run.stderr


def test_completion_does_not_import_torch():
    code = (
        "import os, sys\n"
        "os.environ.update(_LTX2_COMPLETE='bash_complete', COMP_WORDS='ltx2 generate --st', COMP_CWORD='2')\n"
        + HELP.format(arguments=[])
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr
    assert "--steps" in run.stdout, run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_under_the_heading_of_its_group(command):
    text = CliRunner().invoke(main, [command, "--help"]).output
    for option in options_of(command):
        assert option.flag.split("/")[0] in text, option.name
        assert f"\n{GROUPS[option.group]}:\n" in text


def test_the_reference_has_every_command_and_recipe():
    text = reference_markdown()
    assert all(f"## `ltx2 {command}`" in text for command in COMMANDS)
    assert "`--keep-text-keys`" in text
    assert "LTX-2.5 distilled" in text


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--distilled", "--steps", "4"], ("--distilled", "--steps")),
        (["--distilled", "--cfg", "3"], ("--distilled", "--cfg")),
        (["--sigmas", "1, 0", "--steps", "4"], ("--sigmas", "--steps")),
        (["--preset", "distilled 8", "--steps", "4"], ("--preset", "--steps")),
        (["--audio-start", "2"], ("--audio-start", "--audio")),
        (["--image-strength", "0.5"], ("--image-strength", "--image")),
        (["--trigger", "sks"], ("--trigger", "[trigger]")),
        (["--keyframe", "a.png"], ("--keyframe", "frame")),
        (["--frames", "9", "--seconds", "2"], ("--frames", "--seconds")),
    ],
)
def test_options_that_contradict_each_other_are_both_named(words, names, tmp_path):
    result = CliRunner().invoke(main, ["generate", "--prompt", "x", *words, "-o", str(tmp_path / "x.mp4")])
    assert result.exit_code == 2, result.output
    assert all(name in result.output for name in names), result.output
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_the_recipe_chose_and_an_option_wins(tmp_path):
    words = ["generate", "--prompt", "x", "--steps", "3", "--dry-run", "-o", str(tmp_path / "x.mp4")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "128x128, 49 frames at 25 fps" in result.output
    assert "3 steps" in result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("recipe"))
    assert "width 128" in line
    assert "the tiny set" in line
    assert "steps" not in line
