"""The mask node: several regions, a longer clip, a part of the frame, and the report."""

from __future__ import annotations

import pytest
from host_graph import Graph, Link
from host_server import GraphError, Server
from test_nodes import our_latent
from tiny_models import TinyModels

VALUES = {"fps": 24.0, "rounding": "inside", "length": "keep the length", "existing_mask": "replace"}


def masked(g: Graph, latent: Link, video: str, audio: str, **changes) -> Link:
    values = {"video_regions": video, "audio_regions": audio, **VALUES, **changes}
    return g.add("LTX2AVTimeMask", latent=latent, **values)


def test_regions_become_masks_and_a_longer_clip(server: Server, models: TinyModels):
    g = Graph()
    latent = our_latent(g, frames=49)
    g.dump("parts", latent=masked(g, latent, "0-0.5, 1-2", ""))
    longer = masked(g, latent, "2-3", "2-3", length="extend", rounding="cover")
    g.dump("longer", latent=longer, image=longer[2])
    image = g.add("LTX2ProbeImage", seed=1, frames=1, width=64, height=64)
    where = g.add("ImageToMask", image=image, channel="red")
    once = masked(g, latent, "0-1", "")
    g.dump("where", latent=masked(g, latent, "0-1", "", where=where))
    g.dump("added", latent=masked(g, once, "", "1-2", existing_mask="add"))
    result = server.run(g.prompt)
    parts = result.tensors("parts")
    assert parts["mask/video"][0, 0, :, 0, 0].tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert not parts["mask/audio"].any()
    longer = result.tensors("longer")
    assert longer["latent/video"].shape[2] == 10
    assert longer["latent/audio"].shape[2] == 77
    assert longer["mask/video"][0, 0, :, 0, 0].tolist() == [0] * 6 + [1] * 4
    assert longer["mask/audio"][0, 0, -26:, 0].all()
    assert not longer["mask/audio"][0, 0, :49, 0].any()
    assert longer["image"].shape[2] == 640
    assert result.tensors("where")["mask/video"].shape[3:] == (2, 2)
    added = result.tensors("added")
    assert added["mask/video"].any()
    assert added["mask/audio"].any()


def test_a_reversed_region_is_an_error(server: Server, models: TinyModels):
    g = Graph()
    g.dump("x", latent=masked(g, our_latent(g), "4-2", ""))
    with pytest.raises(GraphError, match="must start at 0 s or later"):
        server.run(g.prompt)
