"""LTX-Video in graphs: our loaders, plan, sampler and decoder next to ComfyUI's own nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from host_graph import Graph, Link
from host_server import Server

from ltx2_core.tiny.settings import TEXT_WIDTH
from ltx2_core.tiny.write import TinySet, write_tiny_set

SIZE = {"width": 64, "height": 64}


@pytest.fixture(scope="module")
def files(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    """A tiny set of LTX-Video, whose checkpoint and upscaler are among the models of the host."""
    made = write_tiny_set(tmp_path_factory.mktemp("ltxv"), generation="ltxv-2b", dtype=torch.float32)
    shutil.copy(made.checkpoint, base_dir / "models" / "checkpoints")
    return made


def texts(g: Graph) -> Link:
    states = [
        g.add("LTX2ProbeTextStates", seed=seed, valid=valid, width=TEXT_WIDTH)
        for seed, valid in ((1, 9), (2, 4))
    ]
    return g.add("LTXVConditioning", positive=states[0], negative=states[1], frame_rate=24.0)


def sampled_by_core(g: Graph, model: Link, text: Link, latent: Link) -> Link:
    sigmas = g.add(
        "LTXVScheduler", steps=2, max_shift=2.05, base_shift=0.95, stretch=True, terminal=0.1, latent=latent
    )
    return g.add(
        "SamplerCustomAdvanced",
        noise=g.add("RandomNoise", noise_seed=42),
        guider=g.add("CFGGuider", model=model, positive=text, negative=text[1], cfg=3.0),
        sampler=g.add("KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas,
        latent_image=latent,
    )


def sampled_by_us(g: Graph, model: Link, text: Link, latent: Link) -> Link:
    return g.add(
        "LTX2AVSampleStage",
        model=model,
        positive=text,
        negative=text[1],
        latent=latent,
        seed=42,
        schedule="LTX-2 scheduler",
        steps=2,
        cfg=3.0,
        audio_cfg=0.0,
        sampler="euler",
    )


def our_plan(g: Graph) -> Link:
    return g.add(
        "LTX2AVClipPlan",
        **SIZE,
        length_unit="frames",
        length=9.0,
        fps=24.0,
        snap="error",
        stages="1",
        batch_size=1,
        with_audio=False,
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / a.float().norm())


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
