"""The host's memory manager is in charge: what it unloads comes back, what it loads partly is the same."""

from __future__ import annotations

import re

import pytest
import torch
from file_opens import FileOpens
from host_graph import Graph
from host_server import Result, Server
from node_graphs import checkpoint, our_latent, prompt, stage, text_encoder
from tiny_models import TinyModels

from ltx2_core.config import video_vae_config
from ltx2_core.loading import open_checkpoint
from ltx2_core.memory import decoder_memory

WEIGHTS = re.compile(r"\.safetensors$")
needs_inotify = pytest.mark.skipif(not FileOpens.available, reason="counts opened files with inotify")


def whole(models: TinyModels, seed: int, *, partly: bool = False) -> Graph:
    """Prompt, a stage, frames and audio; ``partly`` leaves most weights of every network unloaded."""
    g = Graph()
    model, clip = checkpoint(g, models), text_encoder(g, models)
    video_vae, audio_vae = model[1], model[2]
    if partly:
        clip = g.add("LTX2ProbePartialClip", clip=clip)
        video_vae, audio_vae = (g.add("LTX2ProbePartialVAE", vae=vae) for vae in (video_vae, audio_vae))
        model = g.add("LTX2ProbePartialLoad", model=model)
    latent = stage(g, model, prompt(g, clip), our_latent(g), seed=seed)
    g.dump("latent", latent=latent)
    g.dump("image", image=g.add("LTX2AVDecodeVideo", video_vae=video_vae, latent=latent))
    g.dump("audio", audio=g.add("LTX2AVDecodeAudio", audio_vae=audio_vae, latent=latent))
    return g


def same(first: Result, second: Result, **tolerance: float) -> None:
    for name in ("latent", "image", "audio"):
        left, right = first.tensors(name), second.tensors(name)
        assert left.keys() == right.keys()
        for key in left:
            torch.testing.assert_close(right[key], left[key], **tolerance)


def weights(opens: FileOpens) -> dict[str, int]:
    return {name: count for name, count in opens.counts().items() if WEIGHTS.search(name)}


@needs_inotify
def test_a_second_run_with_the_same_files_opens_and_loads_nothing(server: Server, models: TinyModels) -> None:
    with FileOpens(server.base / "models") as opens:
        server.run(whole(models, 1).prompt)
        opens.counts()
        before = server.loads()
        server.run(whole(models, 2).prompt)
        assert weights(opens) == {}
        assert server.loads() == before


@needs_inotify
def test_what_the_host_unloads_comes_back_without_its_file(server: Server, models: TinyModels) -> None:
    first = server.run(whole(models, 3).prompt)
    with FileOpens(server.base / "models") as opens:
        server.free(whole(models, 3).prompt, unload_models=True)
        opens.counts()
        before = server.loads()
        again = server.run(whole(models, 4).prompt)
        assert weights(opens) == {}, "the nodes still have their networks"
        assert server.loads() > before, "they were unloaded"
        server.free(whole(models, 4).prompt, unload_models=True, free_memory=True)
        last = server.run(whole(models, 3).prompt)
        assert weights(opens), "the nodes had let them go"
    same(first, last, rtol=0, atol=0)
    assert not torch.equal(first.tensors("latent")["latent/video"], again.tensors("latent")["latent/video"])


def test_networks_that_are_only_partly_loaded_give_the_same_clip(server: Server, models: TinyModels) -> None:
    first = server.run(whole(models, 5).prompt)
    before = server.log().count("loaded partially")
    second = server.run(whole(models, 5, partly=True).prompt)
    assert server.log().count("loaded partially") - before >= 4, "text, transformer, picture, sound"
    same(first, second, rtol=1e-5, atol=1e-5)


def test_a_network_of_which_the_host_offloads_half_continues(server: Server, models: TinyModels) -> None:
    first = server.run(whole(models, 6).prompt)
    g = Graph()
    model = g.add("LTX2ProbeTakeHalf", model=checkpoint(g, models))
    text = prompt(g, text_encoder(g, models))
    g.dump("latent", latent=stage(g, model, text, our_latent(g), seed=6))
    second = server.run(g.prompt)
    assert second.report()["freed"] > 0
    left, right = first.tensors("latent"), second.tensors("latent")
    for name in left:
        torch.testing.assert_close(right[name], left[name], rtol=1e-5, atol=1e-5)


def test_a_large_frame_requests_the_memory_that_it_needs(server: Server, models: TinyModels) -> None:
    def room(width: int, height: int) -> dict[str, int]:
        g = Graph()
        g.add("LTX2ProbeRoom", vae=checkpoint(g, models)[1], width=width, height=height)
        return server.run(g.prompt).report()

    vae = video_vae_config(
        open_checkpoint(server.base / "models/checkpoints" / models.checkpoints["2.3"]).config
    )
    large = decoder_memory(vae, latent_frames=16, cells=(544, 960), itemsize=2).peak
    assert large > 1.5 * 2**30, "or the test says nothing"
    assert room(64, 64)["decode"] == 2**30
    assert room(32 * 960, 32 * 544) == {"decode": large, "encode": large * 3 // 2}
