"""LoRAs in a run: exchanged between stages, reported before anything is computed, applied to text too."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.values import parse_lora
from ltx2_core.loading import Checkpoint, Component, LoraSpec
from ltx2_core.run.dfr_plan import DfrFiles
from ltx2_core.run.lora_files import strength_text

SMALL = {"width": 128, "height": 64, "num_frames": 17, "fps": 8.0, "steps": 2}
CONNECTOR = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"


def pipeline_of(files, **options) -> LTX2Pipeline:
    return LTX2Pipeline(
        files.checkpoint, text_encoder=files.text_encoder, upscaler=files.upsampler, **options
    )


@pytest.fixture
def write(tiny_set, tmp_path):
    """A LoRA on the named modules of the tiny set; ``component`` is where they are."""

    def make(component, *modules, name="own.safetensors"):
        shapes = pipeline_of(tiny_set).networks.file(component).shapes(component)
        tensors, generator = {}, torch.Generator().manual_seed(0)
        prefix = "text_embedding_projection." if component is Component.TEXT_PROJECTION else ""
        for module in modules:
            out, inner = shapes[f"{module}.weight"]
            tensors[f"{prefix}{module}.lora_A.weight"] = torch.randn(4, inner, generator=generator)
            tensors[f"{prefix}{module}.lora_B.weight"] = torch.randn(out, 4, generator=generator)
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return make


def test_a_held_transformer_is_switched_between_stages_and_gives_the_same_clip(tiny_set, monkeypatch) -> None:
    loaded = []
    load = Checkpoint.load

    def counting(self, component, **options):
        loaded.append(component)
        return load(self, component, **options)

    monkeypatch.setattr(Checkpoint, "load", counting)
    options = {"loras": [(tiny_set.lora, 0.3)], "stage2_loras": [(tiny_set.lora, 0.9)]}
    held = pipeline_of(tiny_set, keep_loaded=True, **options)
    first, second = (held("a ball", stages=2, **SMALL).latents.video for _ in range(2))
    assert loaded.count(Component.TRANSFORMER) == 1
    fresh = pipeline_of(tiny_set, **options)("a ball", stages=2, **SMALL).latents.video
    assert loaded.count(Component.TRANSFORMER) == 3
    assert torch.equal(first, second)
    assert torch.equal(first, fresh)


def test_nothing_is_computed_with_a_lora_that_fits_nowhere(tiny_set, tmp_path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({f"x.lora_{half}.weight": torch.zeros(4, 4) for half in "AB"}, path)
    stages = []
    with pytest.raises(ValueError, match=r"foreign.safetensors: 0 of 1 layers(?s:.*)another model"):
        pipeline_of(tiny_set, stage2_loras=[path])("a ball", on_step=stages.append, **SMALL)
    assert not stages


def test_a_lora_on_the_text_changes_the_context_and_only_of_its_stage(tiny_set, write) -> None:
    path = write(Component.TEXT_CONNECTORS, CONNECTOR)
    plain = pipeline_of(tiny_set).encode_text("a ball")[0]
    changed = pipeline_of(tiny_set, loras=[path]).encode_text("a ball")[0]
    assert not torch.equal(plain.video, changed.video)
    assert torch.equal(plain.audio, changed.audio)
    options = {**SMALL, "stages": 2, "distilled": True, "steps": None}
    without = pipeline_of(tiny_set)("a ball", **options).latents.video
    with_second = pipeline_of(tiny_set, stage2_loras=[path])("a ball", **options).latents.video
    assert not torch.equal(without, with_second)
    assert torch.equal(pipeline_of(tiny_set, stage2_loras=[path]).encode_text("a ball")[0].video, plain.video)


def test_remembered_features_are_those_of_the_loras(tiny_set, write) -> None:
    shapes = pipeline_of(tiny_set).networks.file(Component.TEXT_PROJECTION).shapes(Component.TEXT_PROJECTION)
    modules = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    pipeline = pipeline_of(tiny_set, keep_loaded=True)
    changed = pipeline_of(tiny_set, loras=[write(Component.TEXT_PROJECTION, *modules)], keep_loaded=True)
    plain = pipeline.encode_text("a ball")[0].video
    ours = changed.encode_text("a ball")[0].video
    assert not torch.equal(plain, ours)
    assert torch.equal(changed.encode_text("a ball", loras=())[0].video, plain)
    assert torch.equal(changed.encode_text("a ball")[0].video, ours)


def test_streams_have_strengths_of_their_own_and_the_settings_tell(tiny_set) -> None:
    loras = [LoraSpec(path=tiny_set.lora, strength=0.5, audio_strength=0.0)]
    pipeline = pipeline_of(tiny_set, loras=loras)
    (report,) = pipeline.lora_reports()
    assert "at strength 0.5, audio 0" in str(report)
    assert report.count("audio", "matched") == 8
    assert pipeline("a ball", **SMALL).settings()["loras"] == [[tiny_set.lora.name, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("text", "path", "strength", "audio"),
    [
        ("a.safetensors", "a.safetensors", 1.0, None),
        ("a.safetensors:0.5", "a.safetensors", 0.5, None),
        ("a.safetensors:0.5:-1", "a.safetensors", 0.5, -1.0),
        (r"C:\loras\a.safetensors:0.5:0", r"C:\loras\a.safetensors", 0.5, 0.0),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0, None),
        ("a:b", "a:b", 1.0, None),
    ],
)
def test_the_command_line_reads_a_file_with_up_to_two_strengths(text, path, strength, audio) -> None:
    assert parse_lora(text) == LoraSpec(path=path, strength=strength, audio_strength=audio)


RECIPE_STRENGTHS = {"2.0.0": 1.0, "2.3.0": 0.5, "2.5.0": 0.5, "2.3.0-tiny": 1.0}


@pytest.fixture(scope="module")
def distilled(tiny_set, tmp_path_factory):
    return shutil.copy(tiny_set.lora, tmp_path_factory.mktemp("loras") / "x-Distilled-lora-384.safetensors")


@pytest.mark.parametrize("version", RECIPE_STRENGTHS)
def test_recipe_is_the_strength_of_the_published_graphs_and_the_plan_says_why(
    tiny_set, distilled, tmp_path, version
) -> None:
    checkpoint = tmp_path / "version.safetensors"
    with safe_open(tiny_set.checkpoint, "pt") as file:
        save_file(load_file(tiny_set.checkpoint), checkpoint, {**file.metadata(), "model_version": version})
    files = {"text_encoder": tiny_set.text_encoder}
    for how in (LoraSpec(path=distilled, strength="recipe"), (distilled, "recipe")):
        pipeline = LTX2Pipeline(checkpoint, loras=[how], stage2_loras=[how], **files)
        for lora in (*pipeline.loras, *pipeline.stage2_loras):
            assert (lora.strength, lora.video_strength) == (RECIPE_STRENGTHS[version],) * 2
            text = strength_text(lora, pipeline.recipe)
            assert text == f"strength {RECIPE_STRENGTHS[version]:g} {pipeline.recipe.reason}"
    # Without the word the strength stays 1, and the plan tells of the other.
    plain = LTX2Pipeline(checkpoint, loras=[distilled], **files)
    assert plain.loras[0].strength == 1
    told = "published graphs" in strength_text(plain.loras[0], plain.recipe)
    assert told == (RECIPE_STRENGTHS[version] != 1)


def test_recipe_is_no_strength_of_other_loras(tiny_set, distilled) -> None:
    for make in (
        lambda: parse_lora(f"{tiny_set.lora}:recipe"),
        lambda: LTX2Pipeline(tiny_set.checkpoint, loras=[(tiny_set.lora, "recipe")]),
    ):
        with pytest.raises(ValueError, match="that of distilled LoRAs"):
            make()
    with pytest.raises(ValueError, match="the detail LoRA, whose strength is a number"):
        DfrFiles(detail_lora=LoraSpec(path=distilled, strength="recipe")).opened()
    assert parse_lora("a-distilled.safetensors:recipe") == LoraSpec(
        path="a-distilled.safetensors", strength="recipe"
    )
