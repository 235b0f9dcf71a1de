"""Generated keyframes of LTX-2.5: our nodes write and read what core's nodes of later hosts do."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link, load
from host_server import GraphError, Server
from node_graphs import our_latent
from test_ab_keyframes import late as late
from tiny_models import TinyModels

FRAMES = 17


class Bench:
    """A graph with a text and a latent of 17 frames, to which keyframes are added."""

    def __init__(self, models: TinyModels, checkpoint: str, *, guide: bool = False) -> None:
        self.g = g = Graph()
        self.parts = load(g, models, "2.3", model="core")
        self.model = g.add("LTX2ProbeLoadModel", ckpt_name=checkpoint)
        texts = [g.add("CLIPTextEncode", clip=self.parts.clip, text=text) for text in ("a red ball", "noise")]
        cond = g.add("LTXVConditioning", positive=texts[0], negative=texts[1], frame_rate=24.0)
        self.positive, self.negative, self.latent = cond[0], cond[1], our_latent(g, frames=FRAMES)
        if guide:
            image = g.add("LTX2ProbeImage", seed=9, frames=1, width=64, height=64)
            added = g.add(
                "LTX2AVAddGuide",
                **self.inputs(),
                video_vae=self.parts.vae,
                image=image,
                frame=-1,
                strength=0.7,
                attention_strength=0.7,
                crf=0,
                downscale=0,
            )
            self.take(added)

    def inputs(self) -> dict[str, Link]:
        return {"positive": self.positive, "negative": self.negative, "latent": self.latent}

    def take(self, node: Link) -> Link:
        self.positive, self.negative, self.latent = node[0], node[1], node[2]
        return node

    def add(self, frames: str = "8, 14", **more: object) -> Link:
        values = {"interval_frames": 24, "frame_indices": frames, **more}
        return self.take(self.g.add("LTX2AVAddGeneratedKeyframes", **self.inputs(), **values))

    def separate(self, *, batch: bool = False) -> Link:
        node = self.g.add("LTX2AVSeparateGeneratedKeyframes", **self.inputs(), keyframes_to_batch=batch)
        return self.take(node)

    def sample(self) -> Link:
        sampled = self.g.add(
            "SamplerCustomAdvanced",
            noise=self.g.add("RandomNoise", noise_seed=3),
            guider=self.g.add(
                "CFGGuider", model=self.model, positive=self.positive, negative=self.negative, cfg=1.0
            ),
            sampler=self.g.add("KSamplerSelect", sampler_name="euler"),
            sigmas=self.g.add("ManualSigmas", sigmas="1, 0"),
            latent_image=self.latent,
        )
        self.latent = sampled
        return sampled


@pytest.mark.parametrize("guide", [False, True], ids=["plain", "after_a_guide"])
def test_keyframes_of_our_node_are_those_of_core(
    server: Server, models: TinyModels, late: dict[str, str], guide: bool
) -> None:
    def sampled(whose: str) -> dict[str, torch.Tensor]:
        bench = Bench(models, late["marked"], guide=guide)
        if whose == "ours":
            bench.add()
        else:
            parts = bench.g.add("LTX2AVSeparateLatent", latent=bench.latent)
            inputs = {**bench.inputs(), "latent": parts}
            probe = bench.g.add("LTX2ProbeSlots", **inputs, frames="8,14", marked=True, cells=0)
            bench.take(probe)
            both = {"video_latent": bench.latent, "audio_latent": parts[1]}
            bench.latent = bench.g.add("LTX2AVConcatLatent", **both)
        bench.g.dump("latent", latent=bench.sample())
        return server.run(bench.g.prompt).tensors("latent")

    core, ours = sampled("core"), sampled("ours")
    for name, tensor in core.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("guide", [False, True], ids=["plain", "after_a_guide"])
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_separated_keyframes_are_the_frames_that_were_sampled_and_leave_the_rest(
    server: Server, models: TinyModels, late: dict[str, str], guide: bool, twice: bool
) -> None:
    bench = Bench(models, late["marked"], guide=guide)
    if twice:
        bench.add("8")
        bench.add("14")
    else:
        bench.add()
    sampled = bench.sample()
    bench.g.dump("all", latent=sampled)
    separated = bench.separate()
    bench.g.dump("rest", latent=separated[2])
    bench.g.dump("keyframes", latent=separated[3])
    cropped = bench.g.add("LTX2AVCropGuides", **bench.inputs())
    bench.g.dump("clip", latent=cropped[2])
    result = server.run(bench.g.prompt)
    video = result.tensors("all")["latent/video"]
    (keyframes,) = (t for name, t in result.tensors("keyframes").items() if "mask" not in name)
    clip = 3
    assert video.shape[2] == clip + guide + 2
    assert torch.equal(keyframes, video[:, :, -2:])
    assert torch.equal(result.tensors("rest")["latent/video"], video[:, :, :-2])
    assert torch.equal(result.tensors("clip")["latent/video"], video[:, :, :clip])


def test_keyframes_become_guides_at_the_same_share_of_a_longer_clip(
    server: Server, models: TinyModels, late: dict[str, str]
) -> None:
    bench = Bench(models, late["marked"])
    bench.add("8")
    bench.sample()
    keyframes = bench.separate()[3]
    longer = our_latent(bench.g, frames=33)
    more = {"video_vae": bench.parts.vae, "keyframes": keyframes, "strength": 1.0}
    inputs = {**bench.inputs(), "latent": longer}
    guided = bench.g.add("LTX2AVGeneratedKeyframesToGuides", **inputs, **more, override_frame_indices="")
    bench.g.dump("keyframes", latent=keyframes)
    bench.g.dump("guided", latent=guided[2])
    bench.g.add("PreviewAny", source=guided[3])
    bench.take(guided)
    bench.g.dump("sampled", latent=bench.sample())
    result = server.run(bench.g.prompt)
    (own,) = (t for name, t in result.tensors("keyframes").items() if "mask" not in name)
    video = result.tensors("guided")["latent/video"]
    assert video.shape[2] == 5 + 1
    assert torch.equal(video[:, :, -1:], own)
    # A guide of strength 1 is preserved.
    torch.testing.assert_close(result.tensors("sampled")["latent/video"][:, :, -1:], own)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("8, 8", "must rise"),
        ("40", "not all in the clip, frames 0 to 16"),
        ("x", "must be frame numbers"),
    ],
)
def test_frames_that_cannot_be_generated_are_refused(
    server: Server, models: TinyModels, late: dict[str, str], frames: str, message: str
) -> None:
    bench = Bench(models, late["marked"])
    bench.g.dump("latent", latent=bench.add(frames)[2])
    with pytest.raises(GraphError, match=message):
        server.run(bench.g.prompt)


def test_models_and_graphs_without_keyframes_say_so(
    server: Server, models: TinyModels, late: dict[str, str]
) -> None:
    earlier = Bench(models, models.checkpoints["2.3"])
    earlier.add()
    earlier.g.dump("latent", latent=earlier.sample())
    with pytest.raises(GraphError, match=r"cannot generate keyframes, which LTX-2\.5 introduced"):
        server.run(earlier.g.prompt)
    without = Bench(models, late["marked"])
    without.g.dump("latent", latent=without.separate()[2])
    with pytest.raises(GraphError, match="describes no generated keyframes"):
        server.run(without.g.prompt)
