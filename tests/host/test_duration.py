"""The node that predicts the length of a clip. Core's own takes a head of the released size alone."""

from __future__ import annotations

import re

import pytest
import torch
from host_graph import Graph, Link, load
from host_server import GraphError, Server
from node_graphs import plan_node
from tiny_models import TinyModels

from ltx2_core.text.duration import frames_for
from ltx2_core.tiny.write import save_duration_head

HEAD = "tiny-duration-head.safetensors"


@pytest.fixture(scope="module")
def head(server: Server) -> str:
    path = server.base / "models" / "model_patches" / HEAD
    save_duration_head(path, 0, torch.float32)
    return HEAD


def prompted(g: Graph, models: TinyModels) -> tuple[Link, Link]:
    parts = load(g, models, "2.3", model="core")
    model = g.add("LTX2ProbeLoadModel", ckpt_name=models.checkpoints["2.3"])
    return model, g.add("CLIPTextEncode", clip=parts.clip, text="a red ball rolls to the left")


def shown(server: Server, g: Graph) -> list[str]:
    outputs = server.run(g.prompt).outputs
    return [text for output in outputs.values() for text in output.get("text", ())]


def predicted(g: Graph, models: TinyModels, **changes: object) -> Link:
    model, positive = prompted(g, models)
    values = {"duration_head": HEAD, "fps": 24.0, "min_seconds": 0.5, "max_seconds": 20.0}
    return g.add("LTX2AVDurationPredictor", model=model, positive=positive, **{**values, **changes})


def test_a_prediction_is_reported_with_its_frames(server: Server, models: TinyModels, head: str) -> None:
    g = Graph()
    g.add("PreviewAny", source=predicted(g, models)[2])
    (report, *_) = [text for text in shown(server, g) if text.startswith("predicted")]
    match = re.fullmatch(r"predicted ([\d.]+) s: (\d+) frames at 24 fps, ([\d.]+) s", report)
    assert match, report
    assert int(match[2]) == frames_for(float(match[1]), 24.0, shortest_s=0.5)


def test_a_plan_takes_the_predicted_length(server: Server, models: TinyModels, head: str) -> None:
    g = Graph()
    seconds = predicted(g, models)
    g.add("PreviewAny", source=plan_node(g, length_unit="auto", length=9.0, predicted_seconds=seconds[1])[6])
    reports = shown(server, g)
    (report, *_) = [text for text in reports if text.startswith("predicted")]
    match = re.search(r"(\d+) frames at 24 fps", report)
    assert match, report
    assert any(f", {match[1]} frames at 24 fps = " in text for text in reports), reports


def test_an_automatic_length_without_a_prediction_is_refused(server: Server) -> None:
    g = Graph()
    g.add("PreviewAny", source=plan_node(g, length_unit="auto")[6])
    with pytest.raises(GraphError, match="connect seconds of LTX-2 Duration Predictor to predicted_seconds"):
        server.run(g.prompt)


def test_bounds_that_cross_and_files_that_are_missing_are_refused(
    server: Server, models: TinyModels, head: str
) -> None:
    for changes, message in (
        ({"min_seconds": 3.0, "max_seconds": 2.0}, "min_seconds=3 is above max_seconds=2"),
        ({"duration_head": "gone.safetensors"}, "ltx-2.5-duration-head-bf16 into models/model_patches"),
    ):
        g = Graph()
        g.add("PreviewAny", source=predicted(g, models, **changes))
        with pytest.raises(GraphError, match=re.escape(message)):
            server.run(g.prompt)
