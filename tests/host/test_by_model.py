"""What is left to the recipe of the model: sampler, noise levels of a second stage, strength of a LoRA."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from host_graph import Graph, Link
from host_server import Server
from node_graphs import assert_equal, our_latent, prompt, reports, stage, text_encoder
from tiny_models import TinyModels, with_versions

BY_MODEL = {"schedule": "second stage, by the model", "sampler": "by the model"}
RECIPES = {
    # version in the file: second stage, sampler of a distilled first stage, strength of a distilled LoRA
    "2.0.0": ("distilled_stage2", "euler", 1.0),
    "2.3.0": ("stage2_2.3", "euler", 0.5),
    "2.4.0": ("stage2_2.3", "euler", 0.5),
    "2.5.0": ("stage2_2.3", "euler_ancestral", 0.5),
    "2.3.0-tiny": ("distilled_stage2", "euler", 1.0),
}
DISTILLED = "any-Distilled-lora.safetensors"


@pytest.fixture(scope="module")
def versions(models: TinyModels, base_dir: Path) -> dict[str, str]:
    """The tiny checkpoint under each version: version -> name of the file."""
    names = with_versions(models, base_dir / "models" / "checkpoints", "version", RECIPES)
    shutil.copy(base_dir / "models" / "loras" / models.lora, base_dir / "models" / "loras" / DISTILLED)
    return names


def load(g: Graph, name: str, network: str = "LTX-2") -> Link:
    if network == "core's loader":
        return g.add("CheckpointLoaderSimple", ckpt_name=name)
    return g.add("LTX2AVLoadCheckpoint", ckpt_name=name, network=network)


@pytest.mark.parametrize("network", ["LTX-2", "ComfyUI"])
@pytest.mark.parametrize("version", RECIPES)
def test_sampler_and_second_stage_are_those_of_the_recipe(
    server: Server, models: TinyModels, versions: dict[str, str], version: str, network: str
):
    listed, sampler, _ = RECIPES[version]
    g = Graph()
    model, text, latent = (
        load(g, versions[version], network),
        prompt(g, text_encoder(g, models)),
        our_latent(g),
    )
    sigmas = g.add("LTX2AVDistilledSigmas", schedule=listed)
    first = {"schedule": "distilled 8", "cfg": 1.0}
    g.dump("second", latent=stage(g, model, text, latent, cfg=1.0, **BY_MODEL))
    g.dump("second named", latent=stage(g, model, text, latent, cfg=1.0, sigmas=sigmas, sampler="euler"))
    g.dump("first", latent=stage(g, model, text, latent, **first, sampler="by the model"))
    g.dump("first named", latent=stage(g, model, text, latent, **first, sampler=sampler))
    result = server.run(g.prompt)
    assert_equal(result, "second", "second named")
    assert_equal(result, "first", "first named")
    start = {"distilled_stage2": "0.9094", "stage2_2.3": "0.85"}[listed]
    assert f"3 steps from noise level {start}, euler, cfg 1; sampler and sigmas by the recipe" in reports(
        result
    )
    assert f"8 steps from noise level 1, {sampler}, cfg 1; sampler by the recipe of" in reports(result)


def test_a_model_of_another_loader_is_known_by_its_shapes(
    server: Server, models: TinyModels, versions: dict[str, str]
):
    g = Graph()
    text, latent = prompt(g, text_encoder(g, models)), our_latent(g)
    model = load(g, versions["2.3.0-tiny"], "core's loader")
    g.dump("second", latent=stage(g, model, text, latent, cfg=1.0, **BY_MODEL))
    result = server.run(g.prompt)
    assert (
        "3 steps from noise level 0.85, euler, cfg 1; sampler and sigmas by the recipe of LTX-2.3"
        in reports(result)
    )


@pytest.mark.parametrize("version", RECIPES)
def test_a_distilled_lora_has_the_strength_of_the_recipe_and_others_their_own(
    server: Server, models: TinyModels, versions: dict[str, str], version: str
):
    strength = RECIPES[version][2]
    g = Graph()
    text, latent = prompt(g, text_encoder(g, models)), our_latent(g)
    model = load(g, versions[version])
    by_model = {"distilled_strength": "by the model", "strength": 0.7}
    cases = {
        "distilled": {"lora": DISTILLED, **by_model},
        "distilled named": {"lora": DISTILLED, "strength": strength},
        "as above": {"lora": DISTILLED, "strength": 0.7, "distilled_strength": "as above"},
        "saved before": {"lora": DISTILLED, "strength": 0.7},
        "other": {"lora": models.lora, **by_model},
    }
    for name, widgets in cases.items():
        changed = g.add("LTX2AVLoadLora", model=model, **widgets)
        g.dump(name, latent=stage(g, changed, text, latent, cfg=1.0))
    result = server.run(g.prompt)
    assert_equal(result, "distilled", "distilled named")
    for name in ("as above", "saved before"):
        assert_equal(result, name, "other")
    assert f"at strength {strength:g}" in reports(result)
    assert "strength of a distilled LoRA by the recipe of" in reports(result)


@pytest.mark.parametrize(
    ("version", "named", "changes", "guided"),
    [
        ("2.3.0", "dev 20", {"steps": 30}, "video cfg 4, stg 0, modality 1, rescale 0 and audio cfg 4"),
        ("2.5.0", "dev 30 guided", {}, "video cfg 3, stg 1, modality 3, rescale 0.7 and audio cfg 7, stg 1"),
    ],
)
def test_a_preset_by_the_model_is_the_recipe_of_its_full_weights(
    server: Server, models: TinyModels, versions: dict[str, str], version: str, named: str, changes, guided
):
    defaults = server.get("/object_info")["LTX2AVSampleStage"]["input"]["optional"]["preset"][1]["options"]
    (inputs,) = (option["inputs"] for option in defaults if option["key"] == named)
    entries = {**inputs.get("required", {}), **inputs.get("optional", {})}
    numbers = {name: entry[1]["default"] for name, entry in entries.items()} | changes
    g = Graph()
    model, text, latent = load(g, versions[version]), prompt(g, text_encoder(g, models)), our_latent(g)
    g.dump("by model", latent=stage(g, model, text, latent, preset="by the model"))
    dotted = {f"preset.{name}": value for name, value in numbers.items()}
    g.dump("named", latent=stage(g, model, text, latent, preset=named, **dotted))
    result = server.run(g.prompt)
    assert_equal(result, "by model", "named")
    assert f"30 steps from noise level 1, euler, {guided}" in reports(result)
    assert f"; preset by the recipe of LTX-{version[:3]} dev" in reports(result)
