"""LTX-Video in graphs: our loaders, plan, sampler and decoder next to ComfyUI's own nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from host_graph import Graph
from host_server import Server
from ltxv_files import lora_name, tiny_set, upscaler_name
from ltxv_graphs import SIZE, our_plan, relative, sampled_by_core, sampled_by_us, texts

from ltx2_core.tiny.write import TinySet

PLAIN = {"crf": 0, "attention_strength": 0.0, "downscale": 0}
"""Widgets of a guide that is neither compressed nor attended to in another way."""


@pytest.fixture(scope="module")
def files(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinySet]:
    """A tiny set of LTX-Video, whose checkpoint and upscaler are among the models of the host."""
    with tiny_set(base_dir, tmp_path_factory.mktemp("ltxv")) as made:
        yield made


def test_our_nodes_sample_what_the_hosts_do(server: Server, files: TinySet) -> None:
    g = Graph()
    text, name = texts(g), files.checkpoint.name
    core = g.add("CheckpointLoaderSimple", ckpt_name=name)
    empty = g.add("EmptyLTXVLatentVideo", **SIZE, length=9, batch_size=1)
    g.dump("core", latent=sampled_by_core(g, core, text, empty))
    ours = g.add("LTX2AVLoadCheckpoint", ckpt_name=name)
    g.dump("ours", latent=sampled_by_us(g, ours, text, our_plan(g)[1]))
    result = server.run(g.prompt)
    theirs, made = (result.tensors(name)["latent"] for name in ("core", "ours"))
    assert relative(theirs, made) < 1e-5


def assert_same(server: Server, g: Graph, tolerance: float = 1e-5) -> None:
    """What was dumped as "core" and as "ours" agrees, as relative L2."""
    result = server.run(g.prompt)
    core, ours = (result.tensors(name)["latent"] for name in ("core", "ours"))
    assert core.shape == ours.shape
    assert relative(core, ours) < tolerance


@pytest.mark.parametrize("strength", [1.0, 0.6, 0.15])
def test_an_image_begins_a_clip_as_with_the_hosts_nodes(
    server: Server, files: TinySet, strength: float
) -> None:
    g = Graph()
    text, name = texts(g), files.checkpoint.name
    image = g.add("LTX2ProbeImage", seed=3, frames=1, **SIZE)
    core, ours = (
        g.add(loader, ckpt_name=name) for loader in ("CheckpointLoaderSimple", "LTX2AVLoadCheckpoint")
    )
    begun = g.add(
        "LTXVImgToVideo",
        **{"positive": text, "negative": text[1], "vae": core[2], "image": image, **SIZE},
        length=9,
        batch_size=1,
        strength=strength,
    )
    g.dump("core", latent=sampled_by_core(g, core, begun, begun[2]))
    placed = {"image": image, "video_vae": ours[1], "latent": our_plan(g)[1], "strength": strength, "crf": 0}
    g.dump("ours", latent=sampled_by_us(g, ours, text, g.add("LTX2AVImgToVideoInplace", **placed)))
    assert_same(server, g, 1e-4)


def test_a_keyframe_is_sampled_as_with_the_hosts_nodes(server: Server, files: TinySet) -> None:
    g = Graph()
    text, name = texts(g), files.checkpoint.name
    image = g.add("LTX2ProbeImage", seed=3, frames=1, **SIZE)
    core, ours = (
        g.add(loader, ckpt_name=name) for loader in ("CheckpointLoaderSimple", "LTX2AVLoadCheckpoint")
    )
    empty = g.add("EmptyLTXVLatentVideo", **SIZE, length=17, batch_size=1)
    for whose, kind, more in (
        ("core", "LTXVAddGuide", {"vae": core[2], "frame_idx": -1}),
        ("ours", "LTX2AVAddGuide", {"video_vae": ours[1], "frame": -1, **PLAIN}),
    ):
        pair = {"positive": text, "negative": text[1]}
        guide = g.add(kind, **pair, latent=empty, image=image, strength=0.8, **more)
        of_core = whose == "core"
        sampled = (sampled_by_core if of_core else sampled_by_us)(
            g, core if of_core else ours, guide, guide[2]
        )
        cropped = {"positive": guide, "negative": guide[1], "latent": sampled}
        g.dump(whose, latent=g.add("LTXVCropGuides", **cropped)[2])
    assert_same(server, g, 1e-4)


def test_a_lora_changes_the_model_as_the_hosts_loader_does(server: Server, files: TinySet) -> None:
    g = Graph()
    text, name, lora = texts(g), files.checkpoint.name, lora_name(files)
    core, ours = (
        g.add(loader, ckpt_name=name) for loader in ("CheckpointLoaderSimple", "LTX2AVLoadCheckpoint")
    )
    latent = our_plan(g)[1]
    with_core = g.add("LoraLoaderModelOnly", model=core, lora_name=lora, strength_model=0.7)
    with_ours = g.add("LTX2AVLoadLora", model=ours, lora=lora, strength=0.7)
    g.dump("core", latent=sampled_by_core(g, with_core, text, latent))
    g.dump("ours", latent=sampled_by_us(g, with_ours, text, latent))
    g.dump("without", latent=sampled_by_us(g, ours, text, latent))
    result = server.run(g.prompt)
    theirs, made, plain = (result.tensors(name)["latent"] for name in ("core", "ours", "without"))
    assert relative(theirs, made) < 1e-5
    assert relative(plain, made) > 1e-3


def test_two_passes_are_those_of_the_hosts_nodes(server: Server, files: TinySet) -> None:
    g = Graph()
    text, name = texts(g), files.checkpoint.name
    core, ours = (
        g.add(loader, ckpt_name=name) for loader in ("CheckpointLoaderSimple", "LTX2AVLoadCheckpoint")
    )
    lists = [g.add("LTX2AVDistilledSigmas", schedule=f"ltxv_distilled_{one}") for one in ("first", "stage2")]
    empty = g.add("EmptyLTXVLatentVideo", **SIZE, length=9, batch_size=1)
    first = sampled_by_core(g, core, text, empty, lists[0])
    upscaler = g.add("LatentUpscaleModelLoader", model_name=upscaler_name(files))
    larger = g.add("LTXVLatentUpsampler", samples=first, upscale_model=upscaler, vae=core[2])
    g.dump("core", latent=sampled_by_core(g, core, text, larger, lists[1]))
    first = sampled_by_us(g, ours, text, our_plan(g)[1], lists[0])
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=upscaler_name(files))
    larger = g.add("LTX2AVLatentUpscale", latent=first, upscale_model=upscaler, video_vae=ours[1])
    g.dump("ours", latent=sampled_by_us(g, ours, text, larger, lists[1]))
    assert_same(server, g)


def test_our_vae_encodes_what_the_hosts_does(server: Server, files: TinySet) -> None:
    g = Graph()
    image = g.add("LTX2ProbeImage", seed=3, frames=9, **SIZE)
    core = g.add("CheckpointLoaderSimple", ckpt_name=files.checkpoint.name)
    ours = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name)
    g.dump("core", latent=g.add("VAEEncode", pixels=image, vae=core[2]))
    g.dump("ours", latent=g.add("VAEEncode", pixels=image, vae=ours[1]))
    result = server.run(g.prompt)
    theirs, made = (result.tensors(name)["latent"] for name in ("core", "ours"))
    assert relative(theirs, made) < 1e-4


def test_the_seed_of_the_decoder_chooses_its_noise(server: Server, files: TinySet) -> None:
    g = Graph()
    ours, latent = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name), our_plan(g)[1]
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        g.dump(name, image=g.add("LTX2AVDecodeVideo", video_vae=ours[1], latent=latent, decoder_seed=seed))
    result = server.run(g.prompt)
    one, same, other = (result.tensors(name)["image"] for name in ("one", "same", "other"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_clip_without_audio_is_saved_without_a_track(server: Server, files: TinySet) -> None:
    g = Graph()
    ours = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name)
    video = g.add(
        "LTX2AVDecodeToVideo", video_vae=ours[1], latent=our_plan(g)[1], fps=24.0, crf=18, batch_index=0
    )
    parts = g.add("GetVideoComponents", video=video)
    g.dump("frames", image=parts)
    assert server.run(g.prompt).tensors("frames")["image"].shape == (9, 64, 64, 3)
