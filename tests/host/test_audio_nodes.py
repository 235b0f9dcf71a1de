"""Audio alone, a reference voice, and input audio: exact, long enough and preserved."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph
from host_server import GraphError, Server
from node_graphs import checkpoint, our_latent, prompt, sound_of, stage, text_encoder
from tiny_models import TinyModels


@pytest.mark.parametrize("whose", ["ours", "core"])
def test_audio_alone_does_not_depend_on_a_video_and_has_its_length(
    server: Server, models: TinyModels, whose: str
):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    model = (
        loaded if whose == "ours" else g.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    )
    start = g.add("LTX2AVTextToAudio", model=model, seconds=1.23, batch_size=2)
    made = stage(g, start, text, start[1], schedule="distilled 8", cfg=1.0)
    sound = g.add("LTX2AVDecodeAudio", audio_vae=loaded[2], latent=made, seconds=start[2], ceiling=-12.0)
    g.dump("start", latent=start[1])
    g.dump("made", latent=made)
    g.dump("sound", audio=sound)
    result = server.run(g.prompt, timeout_s=300)
    begun, latent, heard = (result.tensors(name) for name in ("start", "made", "sound"))
    assert begun["latent/audio"].shape == (2, 8, 32, 16)
    assert not begun["mask/video"].any()
    assert latent["latent/video"].abs().max() < 1e-6
    assert latent["latent/audio"].std() > 0.1
    rate = int(heard["sample_rate"])
    assert heard["waveform"].shape == (2, 2, round(1.23 * rate))
    assert heard["waveform"].abs().amax((1, 2)).max() <= 10 ** (-12 / 20) + 1e-6


def test_the_schedule_of_audio_alone_is_that_of_a_usual_clip(server: Server, models: TinyModels):
    g = Graph()
    loaded = checkpoint(g, models)
    start = g.add("LTX2AVTextToAudio", model=loaded, seconds=1.0, batch_size=1)
    shape = {"steps": 8, "max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}
    text = prompt(g, text_encoder(g, models))
    by_name = stage(g, start, text, start[1], schedule="LTX-2 scheduler", steps=8, cfg=1.0)
    by_hand = stage(g, start, text, start[1], cfg=1.0, sigmas=g.add("LTX2AVScheduler", **shape))
    g.dump("name", latent=by_name)
    g.dump("hand", latent=by_hand)
    result = server.run(g.prompt, timeout_s=300)
    name, hand = result.tensors("name"), result.tensors("hand")
    assert torch.equal(name["latent/audio"], hand["latent/audio"])


def test_a_reference_gives_what_cores_node_gives(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    voice = sound_of(g, 0.5, 22050, 1)
    # Core's node crops to 4096 samples at 44.1 kHz, and ours crops nothing.
    samples, rate = 5 * 4096, 44100
    shared = {"model": loaded, "positive": text, "negative": text[1], "audio_vae": loaded[2]}
    core = g.add(
        "LTXVReferenceAudio",
        **shared,
        reference_audio=g.add("LTX2ProbeAudio", samples=samples, sample_rate=rate, channels=2),
        identity_guidance_scale=2.0,
        start_percent=0.0,
        end_percent=0.8,
    )
    values = {"start": 0.0, "identity": 2.0, "start_percent": 0.0, "end_percent": 0.8}
    own = g.add("LTX2ProbeAudio", samples=2 * samples, sample_rate=rate, channels=2)
    whole = g.add("LTX2ProbeAudio", samples=samples, sample_rate=rate, channels=2)
    ours = g.add("LTX2AVReferenceAudio", **shared, audio=whole, **values, seconds=0.0)
    cut = g.add("LTX2AVReferenceAudio", **shared, audio=own, **values, seconds=samples / rate)
    mono = g.add("LTX2AVReferenceAudio", **shared, audio=voice, **{**values, "identity": 0.0}, seconds=5.0)
    for name, node in (("core", core), ("ours", ours), ("cut", cut), ("mono", mono)):
        again = {"positive": node[1], "negative": node[2]}
        options = {"seed": 4, "schedule": "distilled 8", "steps": 2, "cfg": 2.0, "audio_cfg": 0.0}
        made = g.add(
            "LTX2AVSampleStage", model=node, latent=our_latent(g), **again, **options, sampler="euler"
        )
        g.dump(name, latent=made)
    g.dump("none", latent=stage(g, loaded, text, our_latent(g), seed=4, schedule="distilled 8", cfg=2.0))
    result = server.run(g.prompt, timeout_s=400)
    made = {name: result.tensors(name) for name in ("core", "ours", "cut", "mono", "none")}
    for key, tensor in made["core"].items():
        assert torch.equal(made["ours"][key], tensor), key
        assert made["cut"][key].shape == tensor.shape
    for name in ("ours", "mono"):
        assert not torch.equal(made[name]["latent/audio"], made["none"]["latent/audio"])
    reports = "\n".join(o["text"][0] for o in result.outputs.values() if "text" in o)
    assert "reference of 0.48 s, 12 audio latents" in reports


def test_a_noise_floor_changes_the_conditioning_and_not_the_audio(server: Server, models: TinyModels):
    g = Graph()
    loaded, latent, sound = checkpoint(g, models), our_latent(g), sound_of(g, 0.2, 24000, 2)
    given = {"audio_vae": loaded[2], "audio": sound, "latent": latent, "start": 0.05}
    for name, more in (("plain", {}), ("off", {"noise_floor": 0.0}), ("floor", {"noise_floor": -40.0})):
        node = g.add("LTX2AVSetAudio", **given, **more)
        g.dump(name, latent=node, audio=node[1])
    result = server.run(g.prompt, timeout_s=300)
    plain, off, floor = (result.tensors(name) for name in ("plain", "off", "floor"))
    assert all(torch.equal(plain[key], off[key]) for key in plain)
    assert torch.equal(plain["waveform"], floor["waveform"])
    assert not torch.equal(plain["latent/audio"], floor["latent/audio"])
    assert not floor["mask/audio"].any()


def test_edges_are_white_lines_of_the_same_size(server: Server, models: TinyModels):
    g = Graph()
    pictures = g.add("LTX2ProbeImage", seed=3, frames=3, width=70, height=50)
    g.dump("edges", image=g.add("LTX2AVCanny", image=pictures, low=0.02, high=0.05))
    edges = server.run(g.prompt, timeout_s=300).tensors("edges")["image"]
    assert edges.shape == (3, 50, 70, 3)
    assert {*edges.unique().tolist()} == {0.0, 1.0}


def reference_after_its_end(g: Graph, models: TinyModels):
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    values = {"identity": 1.0, "start_percent": 0.0, "end_percent": 1.0, "start": 9.0, "seconds": 5.0}
    ends = {"model": loaded, "positive": text, "negative": text[1], "audio_vae": loaded[2]}
    node = g.add("LTX2AVReferenceAudio", **ends, audio=sound_of(g, 0.5, 22050, 1), **values)
    return stage(g, node, node[1], our_latent(g))


@pytest.mark.parametrize(
    ("mistake", "message"), [(reference_after_its_end, "choose an earlier start")], ids=["reference"]
)
def test_a_mistake_says_what_to_do(server: Server, models: TinyModels, mistake, message: str):
    g = Graph()
    g.dump("x", latent=mistake(g, models))
    with pytest.raises(GraphError, match=message):
        server.run(g.prompt, timeout_s=300)
