"""Strengths of the first image in both stages, and the report on the clip that is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import FPS, checkpoint, image, our_latent, prompt, reports, stage, text_encoder
from tiny_models import TinyModels, with_versions

GRAPHS = {"2.0.0": 1.0, "2.3.0": 0.7, "2.5.0": 0.7}
"""Version of a checkpoint -> strength of the image in the first stage of the published graphs."""


@pytest.fixture(scope="module")
def versions(models: TinyModels, base_dir: Path) -> dict[str, str]:
    """The tiny checkpoint under each version: version -> name of the file."""
    return with_versions(models, base_dir / "models" / "checkpoints", "image", GRAPHS)


def strength_of(mask) -> float:
    return round(1 - float(mask[:, :, 0].max()), 4)


def both_stages(g: Graph, models: TinyModels, loaded: Link, **widgets) -> tuple[Link, Link]:
    """The latents of an image in the first stage, and of the second stage, before sampling."""
    text = prompt(g, text_encoder(g, models))
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler)
    values = {"video_vae": loaded[1], "image": image(g), "latent": our_latent(g), "crf": 0}
    first = g.add("LTX2AVImgToVideoInplace", **values, **widgets)
    sampled = stage(g, loaded, text, first)
    following = g.add(
        "LTX2AVNextStage",
        positive=text,
        negative=text[1],
        latent=sampled,
        upscale_model=upscaler,
        video_vae=loaded[1],
    )
    return first, following[2]


@pytest.mark.parametrize("version", GRAPHS)
def test_minus_one_is_the_strength_of_the_published_graphs(
    server: Server, models: TinyModels, versions: dict[str, str], version: str
):
    g = Graph()
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=versions[version])
    first, second = both_stages(g, models, loaded, strength=-1.0, next_strength=-1.0)
    g.dump("first", latent=first)
    g.dump("second", latent=second)
    result = server.run(g.prompt)
    assert strength_of(result.tensors("first")["mask/video"]) == GRAPHS[version]
    assert strength_of(result.tensors("second")["mask/video"]) == 1
    assert f"strength {GRAPHS[version]:g}, 1 in the next stage, by the recipe of LTX-" in reports(result)


@pytest.mark.parametrize(
    ("widgets", "expected"),
    [
        # Workflows from before the widget repeat the strength.
        ({"strength": 0.6}, (0.6, 0.6)),
        ({"strength": 0.6, "next_strength": -1.0}, (0.6, 0.6)),
        ({"strength": 0.6, "next_strength": 0.9}, (0.6, 0.9)),
        ({"strength": 1.0, "next_strength": 0.0}, (1.0, 0.0)),
    ],
)
def test_the_next_stage_has_the_strength_that_is_chosen_for_it(
    server: Server, models: TinyModels, widgets, expected
):
    g = Graph()
    for name, latent in zip("ab", both_stages(g, models, checkpoint(g, models), **widgets), strict=True):
        g.dump(name, latent=latent)
    result = server.run(g.prompt)
    found = tuple(strength_of(result.tensors(name)["mask/video"]) for name in "ab")
    assert found == expected


@pytest.mark.parametrize("name", ["strength", "next_strength"])
def test_a_strength_between_minus_one_and_zero_is_refused(server: Server, models: TinyModels, name: str):
    g = Graph()
    first, _ = both_stages(g, models, checkpoint(g, models), **{"strength": 1.0, name: -0.5})
    g.dump("first", latent=first)
    with pytest.raises(GraphError, match=f"{name}=-0.5 must be from 0 to 1"):
        server.run(g.prompt)


@pytest.mark.parametrize("with_image", [True, False])
def test_the_decoded_clip_is_compared_with_the_image(server: Server, models: TinyModels, with_image: bool):
    g = Graph()
    loaded = checkpoint(g, models)
    latent, second = both_stages(g, models, loaded, strength=1.0)
    latent = latent if with_image else our_latent(g)
    text = prompt(g, text_encoder(g, models))
    decoded = {"video_vae": loaded[1], "fps": FPS, "crf": 18, "batch_index": 0}
    for name, one in (("first", stage(g, loaded, text, latent)), ("second", second if with_image else None)):
        if one is not None:
            video = g.add("LTX2AVDecodeToVideo", latent=one, **decoded)
            g.add("PreviewAny", source=video[1])
            g.dump(name, image=g.add("GetVideoComponents", video=video))
    found = reports(server.run(g.prompt))
    assert ("motion " in found and " dB to the image as encoded" in found) == with_image
    assert ("no first image to compare the clip with" in found) != with_image
