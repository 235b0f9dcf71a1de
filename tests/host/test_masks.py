"""A noise mask of any form acts through every node of ours as it does in the host's sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from host_graph import Graph, Link
from host_server import Result, Server
from node_graphs import FPS, checkpoint, image, our_latent, prompt, sound_of, stage, text_encoder
from tiny_models import TinyModels

FRAMES = 17
FORMS = (
    "plain",
    "images",
    "one set by core",
    "two set by core",
    "latent frames",
    "other frames",
    "every value",
    "more than the batch",
    "nested",
    "nested images",
    "nested of one",
    "half precision",
    "larger images",
    "every frame in channels",
    "nested of another length",
)


class Bench(NamedTuple):
    """A graph with the models and the text that the nodes of the table need."""

    g: Graph
    model: Link
    text: Link
    upscaler: Link


Node = Callable[[Bench, Link], tuple[Link, Link]]
"""A node between mask and sampler: LATENT -> conditioning and LATENT."""


def apart_and_joined(bench: Bench, latent: Link) -> tuple[Link, Link]:
    parts = bench.g.add("LTX2AVSeparateLatent", latent=latent)
    return bench.text, bench.g.add("LTX2AVConcatLatent", video_latent=parts, audio_latent=parts[1])


def guide(bench: Bench, latent: Link) -> tuple[Link, Link]:
    made = bench.g.add(
        "LTX2AVAddGuide",
        positive=bench.text,
        negative=bench.text[1],
        video_vae=bench.model[1],
        latent=latent,
        image=image(bench.g),
        frame=-1,
        strength=0.5,
        attention_strength=0.0,
        crf=0,
        downscale=0,
    )
    return made, made[2]


def crop(bench: Bench, latent: Link) -> tuple[Link, Link]:
    made = bench.g.add("LTX2AVCropGuides", positive=bench.text, negative=bench.text[1], latent=latent)
    return made, made[2]


def first_image(bench: Bench, latent: Link) -> tuple[Link, Link]:
    values = {"video_vae": bench.model[1], "image": image(bench.g), "strength": 0.7, "crf": 0}
    return bench.text, bench.g.add("LTX2AVImgToVideoInplace", latent=latent, **values)


def given_audio(bench: Bench, latent: Link) -> tuple[Link, Link]:
    values = {"audio_vae": bench.model[2], "audio": sound_of(bench.g, 1.0, 16000, 2), "start": 0.0}
    return bench.text, bench.g.add("LTX2AVSetAudio", latent=latent, **values)


def regions(bench: Bench, latent: Link) -> tuple[Link, Link]:
    values = {"video_regions": "0-0.1", "audio_regions": "0-0.1", "fps": FPS, "rounding": "cover"}
    more = {"length": "keep the length", "existing_mask": "add"}
    return bench.text, bench.g.add("LTX2AVTimeMask", latent=latent, **values, **more)


def next_stage(bench: Bench, latent: Link) -> tuple[Link, Link]:
    made = bench.g.add(
        "LTX2AVNextStage",
        positive=bench.text,
        negative=bench.text[1],
        latent=latent,
        upscale_model=bench.upscaler,
        video_vae=bench.model[1],
    )
    return made, made[2]


def upscaled(bench: Bench, latent: Link) -> tuple[Link, Link]:
    values = {"upscale_model": bench.upscaler, "video_vae": bench.model[1]}
    return bench.text, bench.g.add("LTX2AVLatentUpscale", latent=latent, **values)


NODES: tuple[Node, ...] = (
    apart_and_joined,
    guide,
    crop,
    first_image,
    given_audio,
    regions,
    next_stage,
    upscaled,
)
FOR_VIDEO: tuple[Node, ...] = (guide, crop, first_image, regions, next_stage, upscaled)


def bench_of(models: TinyModels) -> Bench:
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    return Bench(g, checkpoint(g, models), text, g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler))


def sampled_by_core(bench: Bench, cond: Link, latent: Link) -> Link:
    return bench.g.add(
        "SamplerCustomAdvanced",
        noise=bench.g.add("RandomNoise", noise_seed=42),
        guider=bench.g.add("BasicGuider", model=bench.model, conditioning=cond),
        sampler=bench.g.add("KSamplerSelect", sampler_name="euler"),
        sigmas=bench.g.add("ManualSigmas", sigmas="0.9, 0.5, 0.0"),
        latent_image=latent,
    )


def assert_same(result: Result, left: str, right: str) -> None:
    ours, core = result.tensors(left), result.tensors(right)
    streams = [name for name in core if name.startswith("latent")]
    assert streams == [name for name in ours if name.startswith("latent")]
    for name in streams:
        torch.testing.assert_close(ours[name], core[name], rtol=1e-5, atol=1e-5, msg=f"{left}, {name}")


@pytest.mark.parametrize("form", FORMS)
def test_every_node_reads_a_mask_as_the_hosts_sampler_does(
    server: Server, models: TinyModels, form: str
) -> None:
    bench = bench_of(models)
    latent = our_latent(bench.g, frames=FRAMES, batch=2)
    masked = [
        bench.g.add("LTX2ProbeNoiseMask", latent=latent, form=form, as_core=as_core)
        for as_core in (False, True)
    ]
    for node in NODES:
        for side, one in zip(("given", "in core's form"), masked, strict=True):
            made = sampled_by_core(bench, *node(bench, one))
            bench.g.dump(f"{node.__name__} {side}", latent=made)
    options = {
        "schedule": "distilled 8",
        "cfg": 1.0,
        "sigmas": bench.g.add("ManualSigmas", sigmas="0.9, 0.5, 0.0"),
    }
    bench.g.dump("stage", latent=stage(bench.g, bench.model, bench.text, masked[0], **options))
    bench.g.dump("core", latent=sampled_by_core(bench, bench.text, masked[1]))
    bench.g.dump("core given", latent=sampled_by_core(bench, bench.text, masked[0]))
    bench.g.dump("unmasked", latent=sampled_by_core(bench, bench.text, latent))
    frames = bench.g.add("LTX2AVDecodeVideo", video_vae=bench.model[1], latent=masked[0])
    sound = bench.g.add("LTX2AVDecodeAudio", audio_vae=bench.model[2], latent=masked[0])
    bench.g.dump("decoded", image=frames, audio=sound)
    result = server.run(bench.g.prompt)
    for node in NODES:
        assert_same(result, f"{node.__name__} given", f"{node.__name__} in core's form")
    assert_same(result, "stage", "core")
    assert_same(result, "core given", "core")
    assert_same(result, "apart_and_joined given", "core")
    with pytest.raises(AssertionError):
        assert_same(result, "unmasked", "core")


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("nested")])
def test_a_mask_of_a_video_alone_is_read_as_the_hosts_sampler_does(
    server: Server, models: TinyModels, form: str
) -> None:
    bench = bench_of(models)
    video = bench.g.add("LTX2AVSeparateLatent", latent=our_latent(bench.g, frames=FRAMES))
    masked = [
        bench.g.add("LTX2ProbeNoiseMask", latent=video, form=form, as_core=as_core)
        for as_core in (False, True)
    ]
    for node in FOR_VIDEO:
        for side, one in zip(("given", "in core's form"), masked, strict=True):
            bench.g.dump(f"{node.__name__} {side}", latent=sampled_by_core(bench, *node(bench, one)))
    result = server.run(bench.g.prompt)
    for node in FOR_VIDEO:
        assert_same(result, f"{node.__name__} given", f"{node.__name__} in core's form")
