"""What other nodes and hand-written graphs bring to ours is taken, or refused by its name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import (
    FPS,
    SIDE,
    checkpoint,
    image,
    our_latent,
    plan_node,
    prompt,
    stage,
    text_encoder,
)
from test_ab_samplers import NEUTRAL, WHOLE
from tiny_models import TinyModels


def refused(server: Server, prompt: dict[str, Any]) -> dict[str, Any]:
    """The errors of a graph that is refused before it runs, by node."""
    with pytest.raises(GraphError) as failed:
        server.submit(prompt)
    return failed.value.detail["node_errors"]


def test_nan_is_refused_by_name_in_every_float_widget(server: Server) -> None:
    nodes = {name: node for name, node in server.get("/object_info").items() if name.startswith("LTX2AV")}
    tried = 0
    for name, node in nodes.items():
        entries = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        floats = [entry for entry, (kind, *_) in entries.items() if kind in ("FLOAT", "FLOAT,INT")]
        if not floats:
            continue
        values = dict.fromkeys(floats, math.nan)
        graph: dict[str, Any] = {"1": {"class_type": name, "inputs": values}}
        if not node["output_node"]:
            graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
        errors = refused(server, graph)["1"]["errors"]
        named = [e["details"] for e in errors if e["type"] == "value_smaller_than_min"]
        assert sorted(named) == sorted(floats), name
        tried += len(floats)
    assert tried > 30


@pytest.mark.parametrize("value", [9, 9.0, "9"])
def test_a_number_in_a_graph_is_taken_whatever_its_spelling(server: Server, value: object) -> None:
    g = Graph()
    plan = plan_node(g, length_unit="frames", length=value, fps="24")
    g.dump("latent", latent=plan[1])
    assert server.run(g.prompt).tensors("latent")["latent/video"].shape[2] == 2


@pytest.mark.parametrize(("node", "value"), [("PrimitiveInt", 25), ("PrimitiveFloat", 25.0)])
def test_length_and_rate_are_taken_from_nodes_of_either_type(server: Server, node: str, value: float) -> None:
    g = Graph()
    number = g.add(node, value=value)
    plan = plan_node(g, length_unit="frames", length=number, fps=number)
    empty = g.add("LTX2AVEmptyLatent", width=SIDE, height=SIDE, frames=25, fps=number, batch_size=1)
    g.dump("plan", latent=plan[1])
    g.dump("empty", latent=empty)
    result = server.run(g.prompt)
    for name in ("plan", "empty"):
        latent = result.tensors(name)
        assert latent["latent/video"].shape[2] == 4
        assert latent["latent/audio"].shape[2] == 25


def test_a_wrong_file_name_is_reported_once(server: Server, models: TinyModels) -> None:
    g = Graph()
    names = {"text_encoder": models.text_encoder, "upscaler": "none", "video_vae": "in ckpt_name"}
    loaded = g.add("LTX2AVLoadAll", ckpt_name="nothing.safetensors", **names)
    for slot in (0, 1, 2):
        g.add("PreviewAny", source=loaded[slot])
    (errors,) = (entry["errors"] for entry in refused(server, g.prompt).values() if entry["errors"])
    (error,) = errors
    assert error["details"].startswith("nothing.safetensors is not in models/checkpoints")


def noise_of_the_video(g: Graph, models: TinyModels) -> Link:
    loaded, text, latent = checkpoint(g, models), prompt(g, text_encoder(g, models)), our_latent(g)
    guider = g.add(
        "LTX2AVGuider",
        model=loaded,
        positive=text,
        negative=text[1],
        video=g.add("LTX2AVStreamGuidance", **NEUTRAL),
        **WHOLE,
    )
    return g.add(
        "SamplerCustomAdvanced",
        noise=g.add("LTX2ProbeVideoNoise"),
        guider=guider,
        sampler=g.add("KSamplerSelect", sampler_name="euler"),
        sigmas=g.add("ManualSigmas", sigmas="1.0, 0.0"),
        latent_image=latent,
    )


def batch_index_of_another_batch(g: Graph, models: TinyModels) -> Link:
    latent = g.add("LTX2ProbeBatchIndex", latent=our_latent(g, batch=2), indices="0,1,2")
    return stage(g, checkpoint(g, models), prompt(g, text_encoder(g, models)), latent)


def guide_at(g: Graph, models: TinyModels, frame: int) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    ends = {"positive": text, "negative": text[1], "video_vae": loaded[1]}
    values = {"strength": 1.0, "attention_strength": 0.0, "crf": 0, "downscale": 0}
    latent = our_latent(g, frames=25)
    return g.add("LTX2AVAddGuide", **ends, latent=latent, image=image(g), frame=frame, **values)[2]


def guide_before_the_clip(g: Graph, models: TinyModels) -> Link:
    return guide_at(g, models, -26)


def guide_after_the_clip(g: Graph, models: TinyModels) -> Link:
    return guide_at(g, models, 25)


def mask_after_a_guide(g: Graph, models: TinyModels) -> Link:
    values = {"video_regions": "0-0.5", "audio_regions": "", "fps": FPS, "rounding": "cover"}
    more = {"length": "keep the length", "existing_mask": "replace"}
    return g.add("LTX2AVTimeMask", latent=guide_at(g, models, 0), **values, **more)


MISTAKES = {
    noise_of_the_video: r"noise is of video \(1, 128, 2, 2, 2\) and latent_image is of video .* and audio",
    batch_index_of_another_batch: "holds 2 clips and its batch_index has 3 entries",
    guide_before_the_clip: "frame -26 lies before the clip, which has 25 frames: -25 is its first",
    guide_after_the_clip: "the clip has frames 0 to 24: use fewer frames or an earlier position",
    mask_after_a_guide: "put the mask before LTX-2 Add Guide",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_between_nodes_is_named(server: Server, models: TinyModels, mistake: Any) -> None:
    g = Graph()
    g.dump("x", latent=mistake(g, models))
    with pytest.raises(GraphError, match=MISTAKES[mistake]):
        server.run(g.prompt)


def test_a_batch_index_chooses_the_noise_of_each_clip(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    both = g.add("LTX2ProbeBatchIndex", latent=our_latent(g, batch=2), indices="1,1")
    g.dump("same", latent=stage(g, loaded, text, both))
    g.dump("first", latent=stage(g, loaded, text, our_latent(g)))
    result = server.run(g.prompt)
    same, first = result.tensors("same")["latent/video"], result.tensors("first")["latent/video"]
    torch.testing.assert_close(same[0], same[1])
    assert not torch.allclose(same[0], first[0], atol=1e-3)
