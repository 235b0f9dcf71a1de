"""From a folder to a LoRA in one call: what is chosen and told, and a run that is stopped and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.memory import PRESETS
from ltx2_core.trainer.folder_run import FolderRun, Told, settings_of, train_folder
from ltx2_core.trainer.memory_choice import transformer_size

from .conftest import OPTIONS

SETTINGS = {
    "rank": 2,
    "steps": 3,
    "learning_rate": 1e-2,
    "validation_every": 0,
    "gradient_checkpointing": False,
    "save_precision": "float32",
}


@pytest.fixture
def run(folder, tmp_path) -> FolderRun:
    return FolderRun(source=folder, folder=tmp_path / "run", options=OPTIONS, device="cpu", settings=SETTINGS)


def test_a_budget_chooses_settings_which_those_that_are_written_replace(run) -> None:
    chosen, notes = settings_of(replace(run, budget=PRESETS["8 GB"], settings={"steps": 3}))
    assert (chosen.rank, chosen.optimizer, chosen.blocks_to_swap) == (32, "adamw", 0)
    assert notes[0].startswith("peak ")
    assert settings_of(replace(run, budget=PRESETS["8 GB"]))[0].rank == 2
    with pytest.raises(ValueError, match=r"at least peak .*: use smaller or shorter clips"):
        settings_of(replace(run, budget=10**6))
    # What is written is what must fit.
    settings_of(replace(run, budget=900_000_000, settings={}))
    with pytest.raises(ValueError, match="or leave rank out of the settings"):
        settings_of(replace(run, budget=900_000_000, settings={"rank": 1024}))
    with pytest.raises(ValueError, match="did you mean rank"):
        settings_of(replace(run, settings={"rnak": 2}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_memory": "24GB"}, "settings: max_memory is decided by the preset of memory"),
        ({"log": ["paper"]}, "log='paper' must be one of"),
        ({"optimizer": "muon", "audio_learning_rate": 1e-4}, "muon has one learning rate"),
        ({"conditions": ["first_frmae"]}, "first_frmae"),
        ({"targets": ["nowhere"]}, "no such linear layer"),
        ({"preset_loras": ["gone.safetensors"]}, "no file at gone"),
        ({"preview_prompts": ["a"], "preview_options": ["width"]}, "is not KEY=VALUE"),
        ({"preview_prompts": ["a"], "preview_options": ["widht=64"]}, "did you mean width"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_read(run, settings, words) -> None:
    read: list[str] = []
    with pytest.raises(ValueError, match=words):
        train_folder(
            replace(run, settings={**SETTINGS, **settings}), Told(on_item=lambda what, *_: read.append(what))
        )
    assert not read


def test_captions_are_encoded_up_to_the_layers_that_are_trained(run) -> None:
    settings = {**SETTINGS, "steps": 1, "targets": ["connectors"]}
    path, _ = train_folder(replace(run, settings=settings), Told())
    assert all("_embeddings_connector." in name for name in load_file(path))


def test_the_size_of_files_is_that_of_the_network(networks) -> None:
    from ltx2_core.loading import Component

    size, quantised = transformer_size(networks)
    assert not quantised
    with networks.use(Component.TRANSFORMER) as network:
        own = sum(p.numel() * p.element_size() for p in network.parameters())
    assert size.transformer_weights == own
    assert 0 < size.block_weights * size.transformer.num_layers < own


def test_a_run_that_is_told_to_stop_is_saved_and_ends_as_if_it_had_not(run, tmp_path) -> None:
    whole, lines = train_folder(run, Told())
    assert any("2 clips" in line for line in lines)
    other = replace(run, folder=tmp_path / "other")
    steps: list[int] = []
    told = Told(on_step=lambda step, *_: steps.append(step), stop=lambda: len(steps) == 2)
    stopped, _ = train_folder(other, told)
    assert steps == [1, 2]
    assert stopped == other.folder / "checkpoints" / "lora_step_000002.safetensors"
    items: list[str] = []
    path, _ = train_folder(
        other, Told(on_item=lambda what, *_: items.append(what), on_step=lambda step, *_: steps.append(step))
    )
    assert steps == [1, 2, 3]
    assert set(items) == {"read"}, "nothing is encoded twice"
    assert _equal(whole, path)


def test_previews_are_told_and_given_up_when_the_run_is_stopped(run) -> None:
    shown: list[tuple[int, Path]] = []
    settings = {
        **SETTINGS,
        "steps": 2,
        "preview_prompts": ["a red circle"],
        "preview_options": ["width=64", "height=64", "num_frames=9", "steps=1"],
    }
    made = replace(run, settings=settings)
    train_folder(made, Told(on_clip=lambda step, path: shown.append((step, path)), stop=lambda: True))
    assert not shown
    train_folder(made, Told(on_clip=lambda step, path: shown.append((step, path))))
    assert [step for step, path in shown if path.is_file()] == [2]


def _equal(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
