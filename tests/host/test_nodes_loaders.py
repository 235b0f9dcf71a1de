"""Loaders: single, split and quantised files give the same, lists hold what loads, the rest is explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import host_version
from host_graph import Graph, Link
from host_server import GraphError, Server
from layouts import FORMATS
from node_graphs import (
    FPS,
    assert_equal,
    checkpoint,
    distance,
    our_latent,
    prompt,
    report,
    stage,
    text_encoder,
)
from safetensors.torch import load_file
from tiny_models import TinyModels


def everything(g: Graph, models: TinyModels, **changes: str) -> Link:
    names = {
        "ckpt_name": models.checkpoints["2.3"],
        "text_encoder": models.text_encoder,
        "upscaler": "none",
    }
    return g.add("LTX2AVLoadAll", **{**names, **changes})


def sampled(g: Graph, name: str, loaded: Link) -> None:
    """Dump a clip of a model set: latents, frames and audio."""
    latent = stage(g, loaded, prompt(g, loaded[1]), our_latent(g))
    frames = g.add("LTX2AVDecodeVideo", video_vae=loaded[2], latent=latent)
    sound = g.add("LTX2AVDecodeAudio", audio_vae=loaded[3], latent=latent)
    g.dump(name, latent=latent, image=frames, audio=sound)


SPLIT = {
    "video_vae": "video.safetensors",
    "audio_vae": "audio.safetensors",
    "text_parts": "parts.safetensors",
}


@pytest.mark.parametrize("network", ["LTX-2", "ComfyUI"])
@pytest.mark.parametrize(
    "names",
    [
        {"ckpt_name": "diffusion_models/only.safetensors", **SPLIT},
        {"ckpt_name": "only.safetensors", **SPLIT},
        {"ckpt_name": "diffusers/pieces"},
    ],
    ids=["split files", "split files, named as downloaded", "folder"],
)
def test_other_layouts_give_the_clip_of_the_single_file(
    server: Server, models: TinyModels, folder: Path, names, network: str
):
    g = Graph()
    sampled(g, "single", everything(g, models, network=network))
    sampled(g, "ours", everything(g, models, network=network, **names))
    assert_equal(server.run(g.prompt), "ours", "single")


def test_a_model_alone_needs_no_vae(server: Server, models: TinyModels, folder: Path):
    g = Graph()
    names = {"ckpt_name": "diffusion_models/only.safetensors", "text_parts": "parts.safetensors"}
    loaded = g.add("LTX2AVLoadCheckpoint", **names, video_vae="none", audio_vae="none")
    g.dump("x", latent=stage(g, loaded, prompt(g, text_encoder(g, models)), our_latent(g)))
    assert "latent/video" in server.run(g.prompt).tensors("x")
    g = Graph()
    g.dump("x", latent=our_latent(g), image=decoded(g, g.add("LTX2AVLoadCheckpoint", **names)[1]))
    with pytest.raises(
        GraphError, match=r"has no video encoder; .*Choose a file in video_vae \(LTX2_video_vae"
    ):
        server.run(g.prompt)


def decoded(g: Graph, vae: Link) -> Link:
    return g.add("LTX2AVDecodeVideo", video_vae=vae, latent=our_latent(g))


SINCE = {"int8": (0, 27), "w4a4": (0, 33), "w4a8": (0, 33)}
"""First version of the hosts tried here that multiplies a format; before it is decoded when it is loaded."""
ROUNDED = {"int8": 1e-2, "w4a8": 1e-2, "w4a4": 0.1}
"""How far the result may be off where the host rounds activations too: to int8, or to 4 bits."""


@pytest.mark.parametrize("network", ["LTX-2", "ComfyUI"])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_hosts_quantised_layers_give_what_the_decoded_weights_do(
    server: Server, models: TinyModels, folder: Path, kind: str, network: str, comfy_dir: Path
):
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    for name, file in (("exact", f"{kind} decoded"), ("ours", kind)):
        loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=f"{file}.safetensors", network=network)
        g.dump(name, latent=stage(g, loaded, text, our_latent(g)))
    g.add("LTX2ProbeModel", model=loaded)
    plain = g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"], network=network)
    g.dump("plain", latent=stage(g, plain, text, our_latent(g)))
    result = server.run(g.prompt)
    assert distance(result, "ours", "exact") < ROUNDED.get(kind, 1e-3)
    known = host_version(comfy_dir) >= SINCE.get(kind, (0, 20))
    assert result.report()["quantised"] == [FORMATS[kind][1] or "float8_e4m3fn"] * known
    assert distance(result, "exact", "plain") > 1e-3


def test_text_encoders_in_one_file_give_the_conditioning_of_the_folder(
    server: Server, models: TinyModels, folder: Path
):
    g = Graph()
    for name, file in (
        ("folder", models.text_encoder),
        ("file", "gemma.safetensors"),
        ("fp8", "gemma_fp8.safetensors"),
    ):
        clip = g.add("LTX2AVLoadTextEncoder", text_encoder=file, ckpt_name="text_encoders/parts.safetensors")
        g.dump(name, conditioning=g.add("LTX2AVPrompt", clip=clip, positive="a", negative="b", fps=FPS))
    result = server.run(g.prompt)
    assert_equal(result, "file", "folder")
    exact, stored = (result.tensors(name)["cond"] for name in ("folder", "fp8"))
    assert 0 < (exact - stored).norm() / exact.norm() < 0.3


def test_a_prompt_that_was_met_before_is_not_read_again(server: Server, models: TinyModels):
    def passes(fps: float, positive: str) -> int:
        """Runs of Gemma, which end with the last of its hidden states."""
        g = Graph()
        clip = text_encoder(g, models)
        read = g.add("LTX2AVPrompt", clip=clip, positive=positive, negative="noise", fps=fps)
        g.dump("x", conditioning=read)
        told = [m["data"] for m in server.listen(g.prompt) if isinstance(m, dict) and m["type"] == "progress"]
        return sum(d["value"] == d["max"] for d in told if d["node"] == read.node)

    assert passes(25.0, "a seal sings") == 2
    assert passes(26.0, "a seal sings") == 0
    assert passes(26.0, "a seal sings loudly") == 1
    assert passes(24.0, "a seal sings loudly") == 0


def options(server: Server, node: str, name: str) -> list[str]:
    inputs = server.get(f"/object_info/{node}")[node]["input"]
    entry = {**inputs["required"], **inputs.get("optional", {})}[name]
    return entry[1]["options"] if entry[0] == "COMBO" else entry[0]


@pytest.fixture
def listed_folder(folder: Path) -> Iterator[Path]:
    """The model folders without the trained set, which tests of workflows have put there for the session."""
    moved = [(path, folder.parent / f"aside-{path.parent.name}") for path in folder.glob("*/trained")]
    for path, aside in moved:
        path.rename(aside)
    yield folder
    for path, aside in moved:
        aside.rename(path)


@pytest.mark.usefixtures("listed_folder")
def test_lists_hold_what_can_be_loaded_and_nothing_else(server: Server, models: TinyModels):
    listed = options(server, "LTX2AVLoadCheckpoint", "ckpt_name")
    assert {*models.checkpoints.values(), "diffusion_models/only.safetensors", "diffusers/pieces"} <= {
        *listed
    }
    assert not {*models.broken.values()} & {*listed}
    assert options(server, "LTX2AVLoadCheckpoint", "video_vae")[:3] == [
        "in ckpt_name",
        "none",
        "video.safetensors",
    ]
    assert "audio.safetensors" in options(server, "LTX2AVLoadAll", "audio_vae")
    assert options(server, "LTX2AVLoadAll", "text_parts") == ["in ckpt_name", "parts.safetensors"]
    encoders = {models.text_encoder, "gemma.safetensors", "gemma_fp8.safetensors"}
    assert {*options(server, "LTX2AVLoadTextEncoder", "text_encoder")} == encoders
    assert models.foreign_lora not in options(server, "LTX2AVLoadLora", "lora")
    assert options(server, "LTX2AVLoadUpscaler", "upscaler") == [models.upsampler]
    every = options(server, "LTX2AVInspect", "file")
    assert {f"checkpoints/{name}" for name in models.broken.values()} <= {*every}


def test_a_list_notices_a_file_that_changed(server: Server, models: TinyModels, folder: Path):
    path = folder / "latent_upscale_models" / "late.safetensors"
    path.write_bytes(b"not yet")
    assert "late.safetensors" not in options(server, "LTX2AVLoadUpscaler", "upscaler")
    path.write_bytes((folder / "latent_upscale_models" / models.upsampler).read_bytes())
    assert "late.safetensors" in options(server, "LTX2AVLoadUpscaler", "upscaler")
    path.unlink()


@pytest.mark.parametrize(
    ("node", "changes", "words"),
    [
        (
            "LTX2AVLoadAll",
            {"ckpt_name": "upscaler.safetensors"},
            "it holds latent upsampler.*Choose .*safetensors",
        ),
        ("LTX2AVLoadAll", {"ckpt_name": "gone.safetensors"}, "is not in models/checkpoints or models/diff"),
        (
            "LTX2AVLoadAll",
            {"text_encoder": "t5.safetensors"},
            "cannot serve as a text encoder.*gemma_3_12B_it",
        ),
        ("LTX2AVLoadAll", {"video_vae": "audio.safetensors"}, "has no video encoder.*LTX2_video_vae_bf16"),
        ("LTX2AVLoadAll", {"ckpt_name": "incomplete.safetensors"}, "1 missing: proj_out.weight"),
        ("LTX2AVLoadLora", {"lora": "foreign.safetensors"}, "none of its layers has a name of LTX-2"),
        ("LTX2AVLoadUpscaler", {"upscaler": "no"}, "into models/latent_upscale_models"),
    ],
)
def test_a_wrong_name_is_answered_with_what_it_is_and_what_to_choose(
    server: Server, models: TinyModels, folder: Path, node: str, changes: dict[str, str], words: str
):
    g = Graph()
    if node == "LTX2AVLoadLora":
        loaded = g.add(node, model=checkpoint(g, models), strength=1.0, **changes)
    else:
        loaded = everything(g, models, **changes) if node == "LTX2AVLoadAll" else g.add(node, **changes)
    if node == "LTX2AVLoadUpscaler":
        all_ = everything(g, models)
        loaded = g.add("LTX2AVLatentUpscale", latent=our_latent(g), upscale_model=loaded, video_vae=all_[2])
        g.dump("x", latent=loaded)
    else:
        g.add("LTX2ProbeModel", model=loaded)
    with pytest.raises(GraphError, match=words):
        server.run(g.prompt)


def test_an_empty_list_says_what_to_download_and_where_to_put_it(
    server: Server, models: TinyModels, listed_folder: Path
):
    path = listed_folder / "latent_upscale_models" / models.upsampler
    aside = path.rename(path.with_suffix(".aside"))
    try:
        assert options(server, "LTX2AVLoadUpscaler", "upscaler") == ["no latent upscaler found"]
        g = Graph()
        loaded = g.add("LTX2AVLoadUpscaler", upscaler="no latent upscaler found")
        vae = everything(g, models)[2]
        g.dump(
            "x",
            latent=g.add("LTX2AVLatentUpscale", latent=our_latent(g), upscale_model=loaded, video_vae=vae),
        )
        words = (
            r"no latent upscaler found in models/latent_upscale_models .*Download ltx-2-spatial-upscaler-x2"
        )
        with pytest.raises(GraphError, match=words):
            server.run(g.prompt)
    finally:
        aside.rename(path)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("checkpoints/ltx2-tiny-2.3.safetensors", ["LTX-2.3", "single file", "vocoder"]),
        ("checkpoints/nvfp4.safetensors", ["quantised layers: 8 nvfp4"]),
        ("checkpoints/truncated.safetensors", ["cannot be loaded", "truncated"]),
        ("diffusers/pieces", ["split files", "LTX-2.3"]),
        ("loras/ic.safetensors", ["16 layers of rank 4: video 8, audio 8", "1/2 of the size"]),
        ("text_encoders/gemma.safetensors", ["text encoder in one file", "tokenizer_json"]),
    ],
)
def test_inspect_says_what_a_file_is(server: Server, models: TinyModels, folder: Path, file: str, words):
    g = Graph()
    g.add("LTX2AVInspect", file=file)
    told = report(server.run(g.prompt))
    assert all(word in told for word in words), told


def test_the_hosts_checkpoint_save_takes_what_the_pack_loads(server: Server, models: TinyModels):
    g = Graph()
    loaded = everything(g, models)
    g.add("CheckpointSave", model=loaded, clip=loaded[1], vae=loaded[2], filename_prefix="saved/all")
    server.run(g.prompt)
    (path,) = (server.output / "saved").glob("all*.safetensors")
    saved = load_file(path)
    source = load_file(server.base / "models/checkpoints" / models.checkpoints["2.3"])
    network = {name: tensor for name, tensor in source.items() if name.startswith("model.diffusion_model.")}
    assert network
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.items())
    assert any("embed_tokens" in name for name in saved)
