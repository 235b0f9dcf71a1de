"""``ltx2 inspect`` tells what a file holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import SUBCOMMANDS, main
from ltx2_core.tiny import embedded_set


def run(*arguments: object):
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def report(path) -> dict:
    result = run(path, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_a_checkpoint_is_listed_with_its_parts_sizes_and_metadata():
    path = embedded_set().checkpoint
    told = report(path)
    assert told["generation"] == "2.3" and told["size"] == path.stat().st_size
    parts = {part["name"]: part for part in told["components"]}
    assert set(parts) == {
        "transformer",
        "text connectors",
        "text projection",
        "video encoder",
        "video decoder",
        "audio encoder",
        "audio decoder",
        "vocoder",
    }
    assert all(part["dtypes"] == ["BF16"] for part in parts.values())
    assert all(part["size"] == 2 * part["parameters"] > 0 for part in parts.values())
    assert told["metadata"]["config"]["transformer"]["num_layers"] == 2


def test_the_table_shows_the_same():
    result = run(embedded_set().checkpoint)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert any(line.split()[:2] == ["generation", "LTX-2.3"] for line in lines)
    assert any(line.startswith("  vocoder") and "BF16" in line for line in lines)
    assert any("config: {transformer, vae, audio_vae, vocoder, scheduler}" in line for line in lines)


def test_loras_upscalers_and_text_encoder_folders_are_told_too():
    files = embedded_set()
    lora = report(files.lora)
    assert lora["lora"] == {"layers": 16, "ranks": [4], "reference_downscale_factor": 1}
    assert "16 layers of rank 4" in run(files.lora).output
    assert [part["name"] for part in report(files.upsampler)["components"]] == ["latent upsampler"]
    text = report(files.text_encoder)
    assert text["components"][0]["name"] == "text encoder"
    assert text["metadata"]["hidden_size"] == 64 and text["tokenizer"] == "tokenizer.json"


@pytest.mark.parametrize(
    ("content", "what"), [(None, "does not exist"), (b"", "is empty"), (b"hello, world", "a text file")]
)
def test_what_cannot_be_read_is_one_line_and_exit_code_1(content, what, tmp_path):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and what in result.output
    assert len(result.output.splitlines()) == 1


def test_a_folder_without_a_text_encoder_says_what_it_looked_for(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 1 and "config.json" in result.output


def test_help_lists_every_subcommand_without_importing_torch():
    code = """if True:
        import sys
        from ltx2_core.cli.main import main
        try:
            main(["--help"])
        finally:
            print("torch" in sys.modules)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.rstrip().endswith("False")
    assert all(name in done.stdout for name in SUBCOMMANDS)
