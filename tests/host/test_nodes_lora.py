"""LTX-2 Load LoRA: every dialect, both strengths, text too, partly loaded and quantised models, IC-LoRAs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from layouts import FORMATS
from node_graphs import (
    assert_equal,
    checkpoint,
    distance,
    image,
    our_latent,
    prompt,
    report,
    stage,
    text_encoder,
)
from safetensors.torch import load_file, save_file
from tiny_models import TinyModels

from ltx2_core.loading import Component, open_checkpoint

PROJECTION = "text_embedding_projection.video_aggregate_embed"


def test_a_lora_matches_quantised_layers_and_acts_on_them(server: Server, models: TinyModels, folder: Path):
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name="nvfp4.safetensors")
    changed = g.add("LTX2AVLoadLora", model=loaded, lora=models.lora, strength=1.0)
    g.dump("without", latent=stage(g, loaded, text, our_latent(g)))
    g.dump("with", latent=stage(g, changed, text, our_latent(g)))
    result = server.run(g.prompt)
    assert "16 of 16 layers at strength 1" in report(result)
    assert distance(result, "with", "without") > 1e-3


def test_the_streams_of_a_lora_have_strengths_of_their_own(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    for name, strength, audio in (
        ("none", 0.0, "0"),
        ("sound", 0.0, "1"),
        ("both", 1.0, ""),
        ("all", 1.0, "1"),
    ):
        model = g.add(
            "LTX2AVLoadLora", model=loaded, lora=models.lora, strength=strength, audio_strength=audio
        )
        g.dump(name, latent=stage(g, model, text, our_latent(g)))
    result = server.run(g.prompt)
    texts = [o["text"][0] for o in result.outputs.values() if "text" in o]
    assert any("at strength 0, audio 1" in told for told in texts)
    assert_equal(result, "both", "all")
    none, sound, both = (result.tensors(name)["latent/audio"] for name in ("none", "sound", "both"))
    assert (none - sound).abs().max() > 1e-4
    assert (sound - both).abs().max() > 1e-4


def test_a_graph_saved_before_the_new_widgets_still_runs(server: Server, models: TinyModels):
    g = Graph()
    loaded = g.add("LTX2AVLoadLora", model=checkpoint(g, models), lora=models.lora, strength=1.0)
    g.dump("x", latent=stage(g, loaded, prompt(g, text_encoder(g, models)), our_latent(g)))
    assert "16 of 16 layers at strength 1" in report(server.run(g.prompt))


def test_a_number_that_is_none_is_refused(server: Server, models: TinyModels):
    g = Graph()
    values = {"lora": models.lora, "strength": 1.0, "audio_strength": "loud"}
    g.add("LTX2ProbeModel", model=g.add("LTX2AVLoadLora", model=checkpoint(g, models), **values))
    with pytest.raises(GraphError, match="audio_strength='loud' must be a number from -10 to 10"):
        server.run(g.prompt)


@pytest.fixture(scope="module")
def loras(models: TinyModels, base_dir: Path) -> Path:
    """The folder of LoRAs with three more: in the names of kohya, for the text, and of another generation."""
    root = base_dir / "models" / "loras"
    official = load_file(root / models.lora)
    halves = {"lora_A": "lora_down", "lora_B": "lora_up"}
    flat = {}
    for name, tensor in official.items():
        module, _, rest = name.removeprefix("diffusion_model.").partition(".lora_")
        flat["lora_unet_" + module.replace(".", "_") + "." + halves[f"lora_{rest[0]}"] + ".weight"] = tensor
    save_file(flat, root / "kohya.safetensors")
    checkpoint = open_checkpoint(base_dir / "models" / "checkpoints" / models.checkpoints["2.3"])
    out, inner = checkpoint.shapes(Component.TEXT_PROJECTION)["video_aggregate_embed.weight"]
    generator = torch.Generator().manual_seed(3)
    text = {
        f"{PROJECTION}.lora_A.weight": torch.randn(2, inner, generator=generator) * 0.05,
        f"{PROJECTION}.lora_B.weight": torch.randn(out, 2, generator=generator) * 0.05,
    }
    save_file({**official, **text}, root / "text.safetensors")
    merged = load_file(checkpoint.path)
    merged[f"{PROJECTION}.weight"] += 0.8 * (
        text[f"{PROJECTION}.lora_B.weight"] @ text[f"{PROJECTION}.lora_A.weight"]
    )
    metadata = {"config": json.dumps(checkpoint.config), "model_version": "2.3.0"}
    save_file(merged, checkpoint.path.with_name("merged text.safetensors"), metadata)
    early = {f"caption_projection.linear_1.lora_{half}.weight": torch.zeros(4, 4) for half in "AB"}
    save_file(early, root / "early.safetensors")
    return root


def with_lora(g: Graph, model: Link, name: str, strength: float = 1.0, **more) -> Link:
    return g.add("LTX2AVLoadLora", model=model, lora=name, strength=strength, **more)


def test_a_lora_in_other_names_gives_the_same_clip(server: Server, models: TinyModels, loras: Path):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    for name, file in (("ours", "kohya.safetensors"), ("official", models.lora)):
        g.dump(name, latent=stage(g, with_lora(g, loaded, file), text, our_latent(g)))
    assert_equal(server.run(g.prompt), "ours", "official")


@pytest.mark.parametrize("file", ["ltx2-tiny-2.3", *FORMATS])
def test_a_lora_acts_the_same_on_a_model_that_is_only_partly_loaded(
    server: Server, models: TinyModels, folder: Path, file: str
):
    g = Graph()
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=f"{file}.safetensors")
    text = prompt(g, text_encoder(g, models))
    changed = with_lora(g, loaded, models.lora, 0.8, audio_strength="0.3")
    partly = g.add("LTX2ProbePartialLoad", model=changed)
    for name, model in (("whole", changed), ("partly", partly), ("without", loaded)):
        g.dump(name, latent=stage(g, model, text, our_latent(g)))
    before = server.log().count("loaded partially")
    result = server.run(g.prompt)
    assert server.log().count("loaded partially") > before
    # Where it loads a quantised layer whole, the host rounds the merged weight to the stored format.
    limit = 1e-5 if file == "ltx2-tiny-2.3" else distance(result, "without", "whole") / 2
    assert distance(result, "partly", "whole") < limit


def test_a_lora_for_the_text_changes_the_clip_that_comes_out(server: Server, models: TinyModels, loras: Path):
    g = Graph()
    model, clip = checkpoint(g, models), text_encoder(g, models)
    merged = g.add(
        "LTX2AVLoadTextEncoder", text_encoder=models.text_encoder, ckpt_name="merged text.safetensors"
    )
    changed = with_lora(g, model, "text.safetensors", 0.8, clip=clip)
    for name, own in (("plain", clip), ("lora", changed[3]), ("merged", merged)):
        g.dump(name, conditioning=prompt(g, own))
    result = server.run(g.prompt)
    told = report(result)
    assert "17 of 17 layers at strength 0.8" in told
    assert "text: 1 matched" in told
    plain, ours, expected = (result.tensors(name)["cond"] for name in ("plain", "lora", "merged"))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (plain - ours).abs().max() > 1e-3


def test_a_lora_for_the_text_says_so_where_no_clip_is_connected(
    server: Server, models: TinyModels, loras: Path
):
    g = Graph()
    changed = with_lora(g, checkpoint(g, models), "text.safetensors")
    g.add("LTX2ProbeModel", model=changed)
    told = report(server.run(g.prompt))
    assert "16 of 16 layers" in told
    assert "for other components (text projection): 1" in told
    assert "connect clip" in told


def test_a_lora_of_another_generation_is_refused_as_that(server: Server, models: TinyModels, loras: Path):
    g = Graph()
    g.add("LTX2ProbeModel", model=with_lora(g, checkpoint(g, models), "early.safetensors"))
    with pytest.raises(GraphError, match=r"WRONG GENERATION: made for LTX-2\.0 .*this model is LTX-2\.3"):
        server.run(g.prompt)


def test_an_ic_lora_tells_the_guide_how_small_it_has_to_be(
    server: Server, models: TinyModels, guides_of_today: bool, loras: Path
):
    if not guides_of_today:
        pytest.skip("core up to 0.21 has no Get IC-LoRA Parameters")
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    changed = with_lora(g, loaded, models.ic_lora)
    # A camera LoRA behind it states nothing, and does not take away what the first has stated.
    last = with_lora(g, changed, "kohya.safetensors")
    ways = {
        "ours": {"downscale": 0, "iclora_parameters": changed[2]},
        "cores": {"downscale": 0, "iclora_parameters": g.add("GetICLoRAParameters", iclora_model=last)},
        "told": {"downscale": 2},
        "full": {"downscale": 0},
    }
    for name, way in ways.items():
        values = {"frame": 0, "strength": 1.0, "attention_strength": 0.0, "crf": 0, **way}
        guide = g.add(
            "LTX2AVAddGuide",
            positive=text,
            negative=text[1],
            video_vae=loaded[1],
            latent=our_latent(g),
            image=image(g, frames=9),
            **values,
        )
        g.dump(name, latent=guide[2])
    result = server.run(g.prompt)
    assert_equal(result, "ours", "told")
    assert_equal(result, "cores", "told")
    full, told = (result.tensors(name)["latent/video"] for name in ("full", "told"))
    assert full.shape == told.shape
    assert (full - told).abs().max() > 0.1


def test_an_ic_lora_decides_which_frames_of_the_guide_are_used(
    server: Server, models: TinyModels, base_dir: Path
):
    root = base_dir / "models" / "loras"
    stated = {"reference_temporal_scale_factor": "2"}
    save_file(load_file(root / models.lora), root / "slow.safetensors", stated)
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    slow = with_lora(g, loaded, "slow.safetensors")[2]
    for name, frame in (("start", 0), ("later", 9)):
        values = {"frame": frame, "strength": 1.0, "attention_strength": 0.0, "crf": 0, "downscale": 0}
        inputs = {"positive": text, "negative": text[1], "video_vae": loaded[1], **values}
        latent, clip = our_latent(g, frames=33), image(g, frames=17)
        guide = g.add("LTX2AVAddGuide", latent=latent, image=clip, iclora_parameters=slow, **inputs)
        g.dump(name, latent=guide[2])
    with pytest.raises(GraphError, match=r"every 2\. frame begins with the clip, at frame 0; got frame 9"):
        server.run(g.prompt)
    for node in [node for node, one in g.prompt.items() if one["inputs"].get("name") == "later"]:
        del g.prompt[node]
    video = server.run(g.prompt).tensors("start")["latent/video"]
    # 33 frames are 5 latent frames; of 17 frames 9 are taken, which are 2.
    assert video.shape[2] == 7
