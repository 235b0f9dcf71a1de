"""The preset that follows the model: its numbers are those of the generation, and a report says which."""

from __future__ import annotations

import pytest
from host_graph import Graph, Link
from host_server import Server
from node_graphs import our_latent, prompt, stage, text_encoder
from test_ab_core import relative
from test_nodes import stated
from tiny_models import TinyModels

from ltx2_core.sampling.presets import LTXV, PRESETS

OF_MODEL, DISTILLED = "recipe of the model", "recipe of the model, distilled"


def explicit(name: str, **changes: object) -> dict[str, object]:
    """The widgets of a preset that is chosen by name, with its own numbers except for ``changes``."""
    preset = PRESETS[name]
    numbers: dict[str, object] = {"sampler": preset.sampler, "eta": 1.0, "stg_blocks": "", **changes}
    for stream in ("video", "audio"):
        scales = getattr(preset, stream)
        for scale in ("cfg", "stg", "modality", "rescale"):
            numbers[f"{stream}_{scale}"] = getattr(scales, scale)
    if preset.schedule == LTXV:
        numbers = {"steps": preset.steps, **numbers}
    return {"preset": name, **{f"preset.{key}": value for key, value in numbers.items()}}


@pytest.mark.parametrize(
    ("version", "preset", "same", "line"),
    [
        (
            "2.5.0",
            DISTILLED,
            explicit("distilled 8 ancestral"),
            "by the recipe of LTX-2.5 distilled",
        ),
        ("2.3.0", DISTILLED, explicit("distilled 8"), "by the recipe of LTX-2.3 distilled"),
        ("2.5.0", OF_MODEL, explicit("dev 30 guided"), "by the recipe of LTX-2.5 dev"),
        (
            "2.3.0",
            OF_MODEL,
            explicit("dev 20", steps=30),
            "euler, 30 steps, video cfg 4, stg 0, modality 1, rescale 0; audio cfg 4",
        ),
    ],
)
def test_the_preset_of_the_model_is_that_of_its_generation(
    server: Server, models: TinyModels, version: str, preset: str, same: dict[str, object], line: str
) -> None:
    g = Graph()
    model: Link = g.add("LTX2AVLoadCheckpoint", ckpt_name=stated(server, models, version))
    text, latent = prompt(g, text_encoder(g, models)), our_latent(g)
    for name, values in (("chosen", {"preset": preset}), ("same", same)):
        g.dump(name, latent=stage(g, model, text, latent, **values))
    result = server.run(g.prompt)
    chosen, expected = result.tensors("chosen"), result.tensors("same")
    for stream, tensor in expected.items():
        assert relative(tensor, chosen[stream]) < 1e-6, stream
    texts = [text for output in result.outputs.values() for text in output.get("text", ())]
    assert any(line in text for text in texts), texts
