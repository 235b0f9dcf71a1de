"""``ltx2 inspect`` tells what a file holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

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
    assert told["generation"] == "2.3"
    assert told["size"] == path.stat().st_size
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
    assert told["metadata"]["config"]["transformer"]["num_layers"] == 4


def test_the_table_has_the_same_values():
    result = run(embedded_set().checkpoint)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert any(line.split()[:2] == ["generation", "LTX-2.3"] for line in lines)
    assert any(line.startswith("  vocoder") and "BF16" in line for line in lines)
    assert any("config: {transformer, vae, audio_vae, vocoder, scheduler}" in line for line in lines)


def test_loras_upscalers_and_text_encoder_folders_are_told_too(tiny_set):
    files = tiny_set
    lora = report(files.lora)
    assert lora["lora"] == {
        "layers": 16,
        "kinds": ["LoRA"],
        "ranks": [4],
        "streams": {"video": 8, "audio": 8},
        "made_for": "",
        "reference_downscale_factor": 1,
        "reference_temporal_scale_factor": 1,
    }
    assert "16 layers of rank 4: video 8, audio 8" in run(files.lora).output
    assert [part["name"] for part in report(files.upsampler)["components"]] == ["latent upsampler"]
    text = report(files.text_encoder)
    assert text["components"][0]["name"] == "text encoder"
    assert text["metadata"]["hidden_size"] == 64
    assert text["tokenizer"] == "tokenizer.json"


def test_a_folder_of_split_files_is_told_as_one_model(tmp_path):
    path = embedded_set().checkpoint
    assert CliRunner().invoke(main, ["convert", str(path), str(tmp_path / "parts")]).exit_code == 0
    whole, parts = report(path), report(tmp_path / "parts")
    assert parts["layout"] == "split files"
    assert whole["layout"] == "single file"
    assert parts["generation"] == "2.3"
    assert parts["components"] == whole["components"]
    assert report(tmp_path / "parts" / "transformer.safetensors")["layout"] == "split file"
    lines = run(tmp_path / "parts").output.splitlines()
    assert any(line.split() == ["layout", "split", "files"] for line in lines)


def test_quantised_layers_are_counted_by_format(tmp_path):
    path = tmp_path / "fp8.safetensors"
    converted = CliRunner().invoke(main, ["convert", "--fp8", str(embedded_set().checkpoint), str(path)])
    assert converted.exit_code == 0, converted.output
    (transformer,) = (part for part in report(path)["components"] if part["name"] == "transformer")
    assert transformer["quantised"].keys() == {"F8_E4M3 scaled"}
    assert not transformer["problem"]
    assert (
        f"quantised layers: {transformer['quantised']['F8_E4M3 scaled']} F8_E4M3 scaled" in run(path).output
    )


def test_a_part_that_cannot_be_loaded_says_why(tmp_path):
    path = embedded_set().checkpoint
    tensors = load_file(path)
    del tensors["model.diffusion_model.proj_out.weight"]
    save_file(tensors, tmp_path / "x.safetensors", {"config": json.dumps(report(path)["metadata"]["config"])})
    problems = {part["name"]: part["problem"] for part in report(tmp_path / "x.safetensors")["components"]}
    assert "1 missing: proj_out.weight" in problems.pop("transformer")
    assert set(problems.values()) == {None}
    assert "CANNOT BE LOADED" in run(tmp_path / "x.safetensors").output


def test_an_ic_lora_and_one_of_an_unknown_kind_are_told(tiny_set, tmp_path):
    tensors = load_file(tiny_set.lora)
    save_file(tensors, tmp_path / "ic.safetensors", {"reference_downscale_factor": "2"})
    assert (
        "IC-LoRA: reference video at 1/2 of the size, every frame" in run(tmp_path / "ic.safetensors").output
    )
    name = next(iter(tensors)).removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")
    save_file({**tensors, f"{name}.oft_blocks": torch.ones(4)}, tmp_path / "oft.safetensors")
    assert "OFT" in report(tmp_path / "oft.safetensors")["lora"]["problem"]


@pytest.mark.parametrize(
    ("content", "what"), [(None, "does not exist"), (b"", "is empty"), (b"hello, world", "a text file")]
)
def test_what_cannot_be_read_is_one_line_and_exit_code_1(content, what, tmp_path):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert what in result.output
    assert len(result.output.splitlines()) == 1


def test_a_folder_without_a_text_encoder_says_what_it_looked_for(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "config.json" in result.output


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
