"""A latent, a conditioning or a VAE of the wrong kind is named in the user's words, before a step is sampled.

Nodes of core and nodes of this pack are given the same mistakes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from host_graph import Link
from host_server import GraphError, Server
from test_ab_samplers import Bench
from test_packs_ltx import LTXBench
from tiny_models import TinyModels

Samplings = dict[str, Callable[[LTXBench], Link]]


def stage(b: LTXBench) -> Link:
    values = {"schedule": "distilled 8", "steps": 2, "cfg": 3.0, "audio_cfg": 0.0, "sampler": "euler"}
    ends = {"positive": b.text, "negative": b.text[1], "latent": b.latent}
    return b.g.add("LTX2AVSampleStage", model=b.model, seed=42, **ends, **values)


SAMPLINGS: Samplings = {
    "core": lambda b: b.plain(),
    "guider": lambda b: b.sample(b.guider({"cfg": 3.0}), b.core("euler")),
    "stage": stage,
}


def joined(b: LTXBench, video: Link, audio: Link) -> Link:
    return b.g.add("LTXVConcatAVLatent", video_latent=video, audio_latent=audio)


def repeated(b: LTXBench, latent: Link) -> Link:
    return b.g.add("RepeatLatentBatch", samples=latent, amount=2)


LATENTS: dict[str, tuple[Callable[[LTXBench], Link], str]] = {
    "swapped": (lambda b: joined(b, b.audio, b.video), "audio where its video belongs .*: swap the two"),
    "video twice": (lambda b: joined(b, b.video, b.video), r"this latent is video \(.*\) and video \("),
    "audio of Stable Audio": (
        lambda b: b.g.add("EmptyLatentAudio", seconds=1.0, batch_size=1),
        r"(this latent is a tensor|got) \(1, ",
    ),
    "two videos and one audio": (
        lambda b: joined(b, repeated(b, b.video), b.audio),
        "a batch of 2 and its audio of 1: repeat both",
    ),
    "one video and two audios": (
        lambda b: joined(b, b.video, repeated(b, b.audio)),
        "a batch of 1 and its audio of 2: repeat both",
    ),
}
BEFORE_OURS = {"two videos and one audio", "one video and two audios"}
"""Mistakes at which ComfyUI's own guider fails before it asks the MODEL."""


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("mistake", LATENTS)
def test_a_latent_of_another_structure_is_named(
    server: Server, models: TinyModels, mistake: str, sampling: str
) -> None:
    if sampling == "core" and mistake in BEFORE_OURS:
        pytest.skip("ComfyUI's guider joins the streams before it asks the MODEL")
    bench = LTXBench(models, server.get("/object_info"), True, "")
    latent, words = LATENTS[mistake]
    bench.latent = latent(bench)
    assert_refused(server, bench, words, latent=SAMPLINGS[sampling](bench))


CONDITIONINGS: dict[str, tuple[Callable[[LTXBench], Link], str]] = {
    "mask": (
        lambda b: b.add("ConditioningSetMask", conditioning=b.text, mask=b.mask(1)),
        "a mask of the frames, which ComfyUI cannot apply to video and audio together",
    ),
    "area": (
        lambda b: b.add("ConditioningSetArea", conditioning=b.text),
        "an area of the frames, which ComfyUI cannot apply to video and audio together",
    ),
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("mistake", CONDITIONINGS)
def test_a_text_for_a_part_of_the_frames_is_refused_with_audio(
    server: Server, models: TinyModels, mistake: str, sampling: str
) -> None:
    bench = LTXBench(models, server.get("/object_info"), True, "")
    change, words = CONDITIONINGS[mistake]
    made = change(bench)
    # Both ends are those of one node, so that the positive one is exchanged where it is read.
    result = SAMPLINGS[sampling](bench)
    for node in bench.g.prompt.values():
        if node["inputs"].get("positive") == [bench.text.node, 0]:
            node["inputs"]["positive"] = [made.node, made.slot]
    assert_refused(server, bench, f"the positive conditioning is for {words}", latent=result)


def test_a_text_for_a_share_of_the_frames_samples_as_on_cores_model(
    server: Server, models: TinyModels, streams_off: str
) -> None:
    """ComfyUI takes the whole of a latent of video and audio for a share of it."""
    found = {}
    for ours in (True, False):
        bench = LTXBench(models, server.get("/object_info"), ours, streams_off)
        ends = {"positive": bench.add("ConditioningSetAreaPercentage", conditioning=bench.text)}
        guider = bench.g.add("CFGGuider", model=bench.model, negative=bench.text[1], cfg=3.0, **ends)
        found[ours] = bench.run(server, latent=bench.sample(guider, bench.core("euler")))["latent"]
    for name, core in found[False].items():
        assert (core - found[True][name]).norm() <= 1e-4 * core.norm()


VIDEO, AUDIO = "this is the video VAE, ", "this is the audio VAE, "
NO_VIDEO, NO_AUDIO = "which is no video VAE of LTX-2: connect", "which is no audio VAE of LTX-2: connect"
TILES = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
VAES: dict[str, tuple[Callable[[LTXBench], dict[str, Link]], str]] = {
    "core encodes images": (
        lambda b: {"latent": b.g.add("VAEEncode", pixels=b.images(), vae=b.audio_vae)},
        f"{AUDIO}and it was given images to encode: connect video_vae for images",
    ),
    "core encodes images in tiles": (
        lambda b: {"latent": b.g.add("VAEEncodeTiled", pixels=b.images(), vae=b.audio_vae, **TILES)},
        f"{AUDIO}and it was given images to encode",
    ),
    "core encodes audio": (
        lambda b: {"latent": b.g.add("LTXVAudioVAEEncode", audio=voice(b), audio_vae=b.vae)},
        f"{VIDEO}and it was given audio to encode",
    ),
    "core decodes audio by the video VAE": (
        lambda b: {"audio": b.g.add("LTXVAudioVAEDecode", samples=b.audio, audio_vae=b.vae)},
        rf"{VIDEO}.* and it was given \(1, 8, ",
    ),
    "core decodes video by the audio VAE": (
        lambda b: {"image": b.g.add("VAEDecode", samples=b.video, vae=b.audio_vae)},
        rf"{AUDIO}.* and it was given \(1, 128, ",
    ),
    "core decodes the latent of an image": (
        lambda b: {"image": b.g.add("VAEDecode", samples=b.add("EmptyLatentImage"), vae=b.vae)},
        rf"{VIDEO}.* and it was given \(1, 4, ",
    ),
    "ours decodes video": (
        lambda b: {"image": b.g.add("LTX2AVDecodeVideo", video_vae=b.audio_vae, latent=b.latent)},
        NO_VIDEO,
    ),
    "ours decodes into a file": (
        lambda b: {
            "image": b.g.add(
                "GetVideoComponents",
                video=b.add("LTX2AVDecodeToVideo", video_vae=b.audio_vae, latent=b.latent),
            )
        },
        NO_VIDEO,
    ),
    "ours decodes audio": (
        lambda b: {"audio": b.g.add("LTX2AVDecodeAudio", audio_vae=b.vae, latent=b.latent)},
        NO_AUDIO,
    ),
    "ours begins with an image": (
        lambda b: {
            "latent": b.add(
                "LTX2AVImgToVideoInplace", video_vae=b.audio_vae, image=b.images(), latent=b.latent
            )
        },
        NO_VIDEO,
    ),
    "ours adds a guide": (
        lambda b: {
            "latent": b.add(
                "LTX2AVAddGuide",
                positive=b.text,
                negative=b.text[1],
                video_vae=b.audio_vae,
                image=b.images(),
                latent=b.latent,
            )[2]
        },
        NO_VIDEO,
    ),
    "ours upscales": (
        lambda b: {
            "latent": b.g.add(
                "LTX2AVLatentUpscale",
                latent=b.latent,
                video_vae=b.audio_vae,
                upscale_model=b.g.add("LTX2AVLoadUpscaler", upscaler=b.models.upsampler),
            )
        },
        NO_VIDEO,
    ),
}


def voice(b: Bench) -> Link:
    return b.g.add("LTX2ProbeAudio", samples=8000, sample_rate=16000, channels=2)


@pytest.mark.parametrize("mistake", VAES)
def test_a_vae_of_the_other_stream_is_named(server: Server, models: TinyModels, mistake: str) -> None:
    bench = LTXBench(models, server.get("/object_info"), True, "")
    build, words = VAES[mistake]
    assert_refused(server, bench, words, **build(bench))


def test_a_pack_that_replaces_layers_of_cores_vae_says_that_ours_has_none(
    server: Server, models: TinyModels
) -> None:
    definitions = server.get("/object_info")
    if "PatchTritonVAE" not in definitions:
        pytest.skip("set COMFYUI_PACKS to a folder with ComfyUI-KJNodes")
    bench = LTXBench(models, definitions, True, "")
    patched = bench.add("PatchTritonVAE", vae=bench.vae)
    bench.g.dump("x", image=bench.g.add("VAEDecode", vae=patched, samples=bench.video))
    with pytest.raises(GraphError, match="No fusable norm layers found"):
        server.run(bench.g.prompt)


def assert_refused(server: Server, bench: Bench, words: str, **what: Link) -> None:
    bench.g.dump("x", **what)
    with pytest.raises(GraphError, match=words) as failed:
        server.run(bench.g.prompt)
    (error,) = (m for k, m in failed.value.detail["status"]["messages"] if k == "execution_error")
    assert error["exception_type"] == "ValueError"
