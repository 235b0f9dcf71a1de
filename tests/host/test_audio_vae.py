"""Our audio VAE takes from the host's nodes what the host's own takes, and from ours all of the audio."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link, Whose, load
from host_server import GraphError, Server
from node_graphs import our_latent, prompt, report, sound_of, stage
from tiny_models import TinyModels
from torch import Tensor

KINDS = {
    "whole pieces": (6 * 4096, 44100, 2),
    "mono": (6 * 4096, 44100, 1),
    "cropped": (30000, 44100, 2),
    "another rate": (9600, 16000, 2),
    "a file's rate": (48000, 48000, 2),
}


def encoded(server: Server, models: TinyModels, whose: Whose, node: str, kind: str) -> dict[str, Tensor]:
    """The latent of audio from a node with the audio VAE of one side."""
    samples, rate, channels = KINDS[kind]
    g = Graph()
    vae = load(g, models, "2.3", model="core", vae=whose).audio_vae
    audio = g.add("LTX2ProbeAudio", samples=samples, sample_rate=rate, channels=channels)
    if node == "LTX2ProbeEncodeAudio":
        g.dump("latent", latent=g.add(node, audio=audio, vae=vae))
    elif node == "LTX2AVSetAudio":
        g.dump("latent", latent=g.add(node, audio=audio, audio_vae=vae, latent=our_latent(g), start=0.0))
    else:
        g.dump("latent", latent=g.add(node, audio=audio, audio_vae=vae))
    return server.run(g.prompt).tensors("latent")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("node", ["LTXVAudioVAEEncode", "LTX2ProbeEncodeAudio", "LTX2AVSetAudio"])
def test_audio_is_encoded_as_the_hosts_audio_vae_encodes_it(
    server: Server, models: TinyModels, node: str, kind: str
) -> None:
    core, ours = (encoded(server, models, whose, node, kind) for whose in ("core", "ours"))
    assert core.keys() == ours.keys()
    for name, tensor in core.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-5)


def test_our_nodes_drop_nothing_of_the_audio(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours")
    text = prompt(g, loaded.clip)
    audio = g.add("LTX2ProbeAudio", samples=9600, sample_rate=16000, channels=2)
    values = {"start": 0.0, "seconds": 0.0, "identity": 0.0, "start_percent": 0.0, "end_percent": 1.0}
    ends = {"model": loaded.model, "positive": text, "negative": text[1], "audio_vae": loaded.audio_vae}
    node = g.add("LTX2AVReferenceAudio", **ends, audio=audio, **values)
    g.dump("made", latent=stage(g, node, node[1], our_latent(g)))
    assert "16 audio latents" in report(server.run(g.prompt))


def test_other_packs_find_what_they_read_of_an_audio_vae(server: Server, models: TinyModels) -> None:
    reports = {}
    for whose in ("core", "ours"):
        g = Graph()
        g.add("LTX2ProbeAudioVAE", vae=load(g, models, "2.3", model="core", vae=whose).audio_vae)
        reports[whose] = server.run(g.prompt).report()
    assert reports["ours"] == reports["core"]


def test_a_vae_of_another_kind_is_named(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours")
    sound: Link = sound_of(g, 0.5, 16000, 1)
    g.dump(
        "x",
        latent=g.add("LTX2AVSetAudio", audio_vae=loaded.vae, audio=sound, latent=our_latent(g), start=0.0),
    )
    with pytest.raises(GraphError, match="no audio VAE of LTX-2: connect audio_vae of LTX-2 Load"):
        server.run(g.prompt)
