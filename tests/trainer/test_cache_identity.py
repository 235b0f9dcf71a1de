"""Which model files an encoded dataset belongs to: those with the same encoders, in any layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.convert import convert, single_parts, split_parts
from ltx2_core.run.codecs import Codecs
from ltx2_core.tiny import embedded_set
from ltx2_core.trainer.dataset import encode_dataset, plan_dataset
from ltx2_core.trainer.models import open_networks
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.rows import read_rows
from ltx2_core.trainer.settings import LoraSettings

from .conftest import OPTIONS


def in_fp8(folder: Path) -> list[Path]:
    """The embedded set with its transformer in fp8."""
    source = open_checkpoint(embedded_set().checkpoint)
    convert(folder / "fp8.safetensors", [source], single_parts([source]), fp8=True)
    return [folder / "fp8.safetensors"]


def split(folder: Path) -> list[Path]:
    """The embedded set with a file for each part."""
    source = open_checkpoint(embedded_set().checkpoint)
    for name, parts in split_parts([source]).items():
        convert(folder / f"{name}.safetensors", [source], parts, fp8=False)
    return sorted(folder.glob("*.safetensors"))


def retrained(folder: Path, component: Component) -> list[Path]:
    """The embedded set with other weights in ``component``, in a file of the same size."""
    source = open_checkpoint(embedded_set().checkpoint)
    with safe_open(source.path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(source.path)
    for info in source.infos(component).values():
        tensors[info.name] = tensors[info.name] * 1.5
    save_file(tensors, folder / "other.safetensors", header)
    return [folder / "other.safetensors"]


def run_on(cache: Path, checkpoints: list[Path], folder: Path) -> LoraSettings:
    return LoraSettings(
        dataset=str(cache),
        output_dir=str(folder / "run"),
        checkpoints=tuple(map(str, checkpoints)),
        text_encoder=str(embedded_set().text_encoder),
        device="cpu",
    )


@pytest.mark.parametrize("made", [in_fp8, split])
def test_a_dataset_fits_files_of_another_layout_or_format_with_the_same_encoders(
    cache, folder, tmp_path, made
) -> None:
    files = made(tmp_path)
    assert open_run(run_on(cache, files, tmp_path)).layers
    networks = open_networks(files, embedded_set().text_encoder, device="cpu")
    assert encode_dataset(Codecs(networks), plan_dataset(read_rows(folder), OPTIONS), OPTIONS, cache)[1] == 0


@pytest.mark.parametrize(
    "component", [Component.VIDEO_ENCODER, Component.AUDIO_ENCODER, Component.TEXT_CONNECTORS]
)
def test_a_dataset_that_another_encoder_made_is_refused_by_its_name(cache, tmp_path, component) -> None:
    files = retrained(tmp_path, component)
    with pytest.raises(ValueError, match=f"was encoded by another {component} than that of these"):
        open_run(run_on(cache, files, tmp_path))


def test_other_weights_of_the_transformer_leave_a_dataset_usable(cache, tmp_path) -> None:
    assert open_run(run_on(cache, retrained(tmp_path, Component.TRANSFORMER), tmp_path)).layers
