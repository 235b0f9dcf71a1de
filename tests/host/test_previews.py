"""Previews of video and audio in a running host: what they contain, and that they never break a run."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from host_graph import Graph, Link
from host_server import Server
from PIL import Image
from tiny_models import TinyModels

STRIP = 24


def graph(models: TinyModels, *, stage: bool, audio: bool = True, steps: int = 4) -> Graph:
    """Sampling with our model, by our stage node or by the host's."""
    g = Graph()
    name = models.checkpoints["2.3"]
    model = g.add("LTX2AVLoadCheckpoint", ckpt_name=name)
    clip = g.add("LTX2AVLoadTextEncoder", text_encoder=models.text_encoder, ckpt_name=name)
    text = g.add("LTX2AVPrompt", clip=clip, positive="a red ball", negative="noise", fps=24.0)
    latent: Link = g.add("LTX2AVEmptyLatent", width=96, height=64, frames=17, fps=24.0, batch_size=1)
    if not audio:
        latent = g.add("LTXVSeparateAVLatent", av_latent=latent)
    shared = {"model": model, "positive": text, "negative": text[1]}
    if stage:
        out = g.add(
            "LTX2AVSampleStage",
            **shared,
            latent=latent,
            seed=1,
            schedule="LTX-2 scheduler",
            steps=steps,
            cfg=1.0,
            audio_cfg=0.0,
            sampler="euler",
        )
    else:
        out = g.add(
            "SamplerCustomAdvanced",
            noise=g.add("RandomNoise", noise_seed=1),
            guider=g.add("CFGGuider", cfg=1.0, **shared),
            sampler=g.add("KSamplerSelect", sampler_name="euler"),
            sigmas=g.add("LTX2AVDistilledSigmas", schedule="distilled"),
            latent_image=latent,
        )
    g.dump("latent", latent=out)
    return g


def pictures(messages: list) -> list[Image.Image]:
    found = []
    for message in messages:
        if isinstance(message, bytes) and b"\xff\xd8\xff" in message:
            found.append(Image.open(BytesIO(message[message.index(b"\xff\xd8\xff") :])))
    return found


def shape(image: Image.Image) -> float:
    """Of a preview, which the host enlarges: width by height, to a hundredth."""
    return shape_of(*image.size)


def shape_of(width: int, height: int) -> float:
    return round(width / height, 2)


def write_decoder(server: Server, channels: int) -> None:
    g = Graph()
    g.add("LTX2ProbeTinyDecoder", channels=channels, name="taeltx_2.safetensors")
    server.run(g.prompt)


@pytest.mark.parametrize("stage", [True, False])
@pytest.mark.parametrize("audio", [True, False])
def test_a_preview_has_a_frame_and_below_it_the_audio(
    server: Server, models: TinyModels, stage: bool, audio: bool
) -> None:
    made = graph(models, stage=stage, audio=audio)
    images = pictures(server.listen(made.prompt, preview_method="latent2rgb"))
    assert images
    assert {shape(image) for image in images} == {shape_of(3 * 8, 2 * 8 + STRIP * audio)}
    if audio:
        image = images[-1].convert("RGB").resize((3 * 8, 2 * 8 + STRIP))
        strip = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        strip = strip.view(2 * 8 + STRIP, 3 * 8, 3)[2 * 8 :].float()
        green = strip[..., 1] - strip[..., 0]
        assert green[-1].max() > 60, "bars stand on the ground of the strip"
        assert green[1].min() < 40, "bars stand on the ground of the strip"


def test_a_tiny_decoder_is_used_where_the_host_is_set_to_one_and_a_broken_one_does_no_harm(
    server: Server, models: TinyModels
) -> None:
    made = graph(models, stage=False)
    plain = server.wait(server.submit(made.prompt, preview_method="none")).tensors("latent")
    colours = shape_of(3 * 8, 2 * 8 + STRIP)
    for number, (channels, seen, log) in enumerate(
        (
            (128, {shape_of(96, 64 + STRIP)}, ""),
            (0, {colours}, "taeltx_2.safetensors is no decoder"),
            (48, set(), "no preview of this run"),
        )
    ):
        write_decoder(server, channels)
        messages = server.listen(made.prompt | again(made, number + 1), preview_method="taesd")
        assert {shape(image) for image in pictures(messages)} == seen
        assert log in server.log()
        found = server.run(made.prompt | again(made, number + 1)).tensors("latent")
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def again(made: Graph, seed: int) -> dict:
    """The same graph with another negative prompt, which cfg 1 ignores, so the host computes it again."""
    number = next(n for n, node in made.prompt.items() if node["class_type"] == "LTX2AVPrompt")
    node = made.prompt[number]
    return {number: {**node, "inputs": {**node["inputs"], "negative": f"noise {seed}"}}}
