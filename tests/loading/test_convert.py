"""Converted files hold the same model, are verified before they get their name, and are never incomplete."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading import convert as module
from ltx2_core.loading.convert import NOT_QUANTISED


def run(*arguments: object):
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_splitting_and_joining_gives_the_same_tensors(tiny23, tmp_path):
    assert run(tiny23.checkpoint, tmp_path / "split").exit_code == 0
    assert run(tmp_path / "split", tmp_path / "one.safetensors").exit_code == 0
    before, after = load_file(tiny23.checkpoint), load_file(tmp_path / "one.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    plain, joined = open_checkpoint(tiny23.checkpoint), open_checkpoint(tmp_path / "one.safetensors")
    assert joined.config == plain.config
    assert joined.generation == plain.generation
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("generation", ["2.0", "2.3", "2.5"])
def test_fp8_leaves_audio_and_sensitive_layers_unchanged_and_gives_a_similar_velocity(
    generation, generations, tmp_path, velocities
):
    target = tmp_path / "fp8.safetensors"
    result = run(generations[generation], target, "--fp8")
    assert result.exit_code == 0
    assert "layers in fp8" in result.output
    infos = open_checkpoint(target).infos(Component.TRANSFORMER)
    stored = {name for name, info in infos.items() if info.dtype == "F8_E4M3"}
    assert {"transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.1.ff.net.2.weight"} <= stored
    assert not any("audio" in name or "adaln" in name or "to_gate_logits" in name for name in stored)
    assert not any(NOT_QUANTISED.search(name.removesuffix(".weight")) for name in stored)
    ours, plain = (
        velocities(open_checkpoint(path).load(Component.TRANSFORMER, dtype=torch.float32))
        for path in (target, generations[generation])
    )
    for a, b in zip(ours, plain, strict=True):
        assert 0 < (a - b).norm() / b.norm() < 0.1


def test_a_quantised_file_stays_as_it_is(tiny23, tmp_path):
    assert run(tiny23.checkpoint, tmp_path / "fp8.safetensors", "--fp8").exit_code == 0
    result = run(tmp_path / "fp8.safetensors", tmp_path / "again.safetensors", "--fp8")
    assert result.exit_code == 0
    assert "in fp8" not in result.output
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("fp8", "again"))
    assert first.keys() == second.keys()


def test_the_data_of_a_written_file_is_aligned(tiny23, tmp_path):
    assert run(tiny23.checkpoint, tmp_path / "one.safetensors").exit_code == 0
    assert (
        min(info.start for info in open_checkpoint(tmp_path / "one.safetensors").tensors.values()) % 64 == 0
    )


def test_what_is_written_must_load_as_well(tiny23, tmp_path):
    """Comparing tensors is not enough if the source itself lacks one."""
    tensors = load_file(tiny23.checkpoint)
    del tensors["vae.decoder.conv_out.conv.bias"]
    config = {"config": json.dumps(open_checkpoint(tiny23.checkpoint).config)}
    save_file(tensors, tmp_path / "source.safetensors", metadata=config)
    result = run(tmp_path / "source.safetensors", tmp_path / "one.safetensors")
    assert result.exit_code == 2
    assert "1 missing: decoder.conv_out.conv.bias" in result.output
    assert not (tmp_path / "one.safetensors").exists()


def test_an_upscaler_converts_by_itself(tiny23, tmp_path):
    assert run(tiny23.upsampler, tmp_path / "up.safetensors").exit_code == 0
    open_checkpoint(tmp_path / "up.safetensors").load(Component.UPSAMPLER)


def test_a_file_that_reads_back_differently_is_removed_and_the_old_one_remains(tiny23, tmp_path, monkeypatch):
    target = tmp_path / "one.safetensors"
    target.write_bytes(b"old")
    whole = module.write_safetensors

    def damaging(path, entries, metadata):
        whole(path, entries, metadata)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(module, "write_safetensors", damaging)
    result = run(tiny23.checkpoint, target, "--overwrite")
    assert result.exit_code == 2
    assert "1 tensors read back" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["one.safetensors"]
    assert target.read_bytes() == b"old"


def test_a_source_that_cannot_be_converted_is_an_error_of_one_line(tiny23, tmp_path):
    (tmp_path / "there.safetensors").touch()
    for arguments, what in (
        ((tiny23.checkpoint, tmp_path / "there.safetensors"), "exists"),
        ((tiny23.upsampler, tmp_path / "x.safetensors", "--fp8"), "which none of the sources contains"),
        ((tiny23.lora, tmp_path / "x.safetensors"), "none of the sources contains a part"),
        ((tiny23.text_encoder / "tokenizer.json", tmp_path / "x.safetensors"), "not a safetensors file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert what in result.output
        assert len(result.output.splitlines()) == 1


def with_section(path, target, **sections):
    """Copy a file; the given sections replace those of its configuration."""
    config = {**open_checkpoint(path).config, **sections}
    save_file(load_file(path), target, metadata={"config": json.dumps(config), "model_version": "2.3.0"})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("door", ["convert", "folder"])
def test_a_section_comes_from_the_file_whose_component_it_describes(tiny23, tmp_path, reverse, door):
    assert run(tiny23.checkpoint, tmp_path / "split").exit_code == 0
    expected = open_checkpoint(tiny23.checkpoint).config
    stale = {"vae": {"stale": True}, "audio_vae": {"stale": True}, "vocoder": {"stale": True}}
    parts = sorted((tmp_path / "split").glob("*.safetensors"), reverse=reverse)
    (tmp_path / "files").mkdir()
    for number, path in enumerate(parts):
        own = "transformer" if path.stem in ("transformer", "text_encoder_post_modules") else None
        sections = stale if own else {"transformer": {"num_layers": 99}}
        with_section(path, tmp_path / "files" / f"{number}.safetensors", **sections)
    sources = [*sorted((tmp_path / "files").iterdir())] if door == "convert" else [tmp_path / "files"]
    assert run(*sources, tmp_path / "one.safetensors").exit_code == 0
    assert open_checkpoint(tmp_path / "one.safetensors").config == expected
