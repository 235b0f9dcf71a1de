"""LoRAs of text connectors and text projection: captions encoded up to them, files that readers find."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.loading import Component, open_lora
from ltx2_core.run.codecs import Codecs
from ltx2_core.run.pipeline import LTX2Pipeline
from ltx2_core.trainer.cache import Index
from ltx2_core.trainer.dataset import encode_dataset, plan_dataset
from ltx2_core.trainer.lora_run import train_lora
from ltx2_core.trainer.open_run import open_run
from ltx2_core.trainer.rows import read_rows

from .conftest import OPTIONS

CONNECTOR = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def caches(cache, folder, networks, tmp_path_factory):
    """The encoded dataset with captions up to each stage."""
    found = {"context": cache}
    for stage in ("features", "states"):
        found[stage] = tmp_path_factory.mktemp(stage)
        options = replace(OPTIONS, text=stage)
        encode_dataset(Codecs(networks), plan_dataset(read_rows(folder), options), options, found[stage])
    return found


def losses(path) -> list[float]:
    lines = path.with_name("log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize(("stage", "tolerance"), [("features", 0), ("states", 1e-4)])
def test_losses_do_not_depend_on_how_far_captions_are_encoded(
    short_run, caches, tmp_path, stage, tolerance
) -> None:
    whole = train_lora(open_run(replace(short_run, targets=("audio",), task="t2a")))
    other = replace(short_run, targets=("audio",), task="t2a", dataset=str(caches[stage]))
    found = train_lora(open_run(replace(other, output_dir=str(tmp_path / stage))))
    assert losses(found) == pytest.approx(losses(whole), rel=tolerance, abs=0)


@pytest.mark.parametrize(
    ("stage", "targets", "component", "name"),
    [
        ("features", ("connectors",), Component.TEXT_CONNECTORS, f"diffusion_model.{CONNECTOR}"),
        ("features", (f"regex:{CONNECTOR}$", "cross-modal"), Component.TEXT_CONNECTORS, None),
        (
            "states",
            ("projection",),
            Component.TEXT_PROJECTION,
            "text_encoders.text_embedding_projection.video_aggregate_embed",
        ),
    ],
)
def test_layers_of_the_text_are_trained_and_change_what_a_prompt_becomes(
    short_run, caches, networks, stage, targets, component, name
) -> None:
    run = replace(short_run, dataset=str(caches[stage]), targets=targets)
    path = train_lora(open_run(run))
    tensors = load_file(path)
    if name is not None:
        assert f"{name}.lora_A.weight" in tensors
    assert all(tensor.any() for tensor in tensors.values()), "every layer gets a gradient"
    lora = open_lora(path)
    assert component in lora.components
    report = networks.file(component).lora_report(component, lora)
    assert report.matched
    assert not report.unmatched
    plain, changed = (
        LTX2Pipeline.embedded(loras=loras, device="cpu").encode_text("zorb a red circle")[0].video
        for loras in ((), (path,))
    )
    assert not torch.equal(plain, changed)


def test_a_run_of_the_connectors_resumes_bit_for_bit(short_run, caches, tmp_path) -> None:
    run = replace(short_run, dataset=str(caches["features"]), targets=("connectors",), dropout=0.1)
    whole = train_lora(open_run(run))
    other = replace(run, output_dir=str(tmp_path / "other"))
    train_lora(open_run(other), stop_at=1)
    resumed = load_file(train_lora(open_run(other)))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in load_file(whole).items())
    again = replace(run, init_lora=str(whole), output_dir=str(tmp_path / "again"), steps=1)
    assert load_file(train_lora(open_run(again))).keys() == resumed.keys()


def test_presets_of_the_transformer_leave_the_text_as_it_is(short_run, caches) -> None:
    layers = open_run(replace(short_run, dataset=str(caches["states"]), targets=("attention",))).layers
    assert not any("connector" in name or "aggregate" in name for name in layers)


@pytest.mark.parametrize(
    ("stage", "targets", "needed"),
    [
        ("context", ("connectors",), "features"),
        ("context", ("projection",), "states"),
        ("context", ("attention", "connectors", "projection"), "states"),
        ("features", ("regex:aggregate_embed",), "states"),
    ],
)
def test_captions_encoded_too_far_are_refused_with_the_option(
    short_run, caches, stage, targets, needed
) -> None:
    with pytest.raises(ValueError, match=rf"run ltx2 dataset again with --text {needed}$"):
        open_run(replace(short_run, dataset=str(caches[stage]), targets=targets))


def test_held_out_clips_have_their_captions_encoded_as_far(short_run, caches) -> None:
    run = replace(short_run, dataset=str(caches["features"]), validation_dataset=str(caches["context"]))
    with pytest.raises(ValueError, match="was encoded with --text context, the dataset with --text features"):
        open_run(run)


def test_an_index_from_before_the_choice_has_contexts(caches, tmp_path) -> None:
    values = json.loads((caches["context"] / "dataset.json").read_text())
    del values["text"]
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    assert Index.load(tmp_path) == Index.load(caches["context"])
    (tmp_path / "dataset.json").write_text(json.dumps({**values, "text": "letters"}))
    with pytest.raises(ValueError, match="is no stage of captions"):
        Index.load(tmp_path)
