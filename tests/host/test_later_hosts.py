"""What nodes of hosts after 0.33 hand to ours, by their contract: no such host is installed here.

*LTXVFreezeLatent* sets a mask of zeros on one stream, *LTXVAddGeneratedKeyframes* adds keys to a LATENT that
a later node reads, *LTXVAddLatentGuide* appends a latent that may be smaller than the clip, frame rates are
floats, and a VAE may say that it divides the decoding itself.
"""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link
from host_server import Server
from node_graphs import our_latent
from test_masks import NODES, Node, assert_same, bench_of, sampled_by_core
from test_packs_ltx import LTXBench, assert_as_on_core
from tiny_models import TinyModels

from ltx2_core.storage.dequantize import GROUP_SCALES, Format, decode


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_keys_of_a_latent_that_we_do_not_know_pass_through(
    server: Server, models: TinyModels, node: Node
) -> None:
    bench = bench_of(models)
    marked = bench.g.add("LTX2ProbeMarked", latent=our_latent(bench.g, frames=17))
    bench.g.add("LTX2ProbeMarks", latent=node(bench, marked)[1])
    assert server.run(bench.g.prompt).report() == [0, 8]


@pytest.mark.parametrize("stream", [0, 1])
def test_a_frozen_stream_stays_as_it_is_through_a_join(
    server: Server, models: TinyModels, stream: int
) -> None:
    bench = bench_of(models)
    parts = bench.g.add("LTX2AVSeparateLatent", latent=our_latent(bench.g, frames=17))
    values = ",".join("0" * (3, 18)[stream])
    frozen = bench.g.add("LTX2ProbeFrameMask", latent=parts[stream], values=values)
    both = {"video_latent": parts, "audio_latent": parts[1]}
    both["video_latent" if stream == 0 else "audio_latent"] = frozen
    for side, join in (("ours", "LTX2AVConcatLatent"), ("core", "LTXVConcatAVLatent")):
        joined = bench.g.add(join, **both)
        bench.g.dump(side, latent=sampled_by_core(bench, bench.text, joined))
    result = server.run(bench.g.prompt)
    assert_same(result, "ours", "core")
    name = ("latent/video", "latent/audio")[stream]
    assert not result.tensors("ours")[name].any()


def test_the_audio_vae_counts_latents_for_any_frame_rate(server: Server, models: TinyModels) -> None:
    g = Graph()
    vae = g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"])[2]
    g.add("LTX2ProbeLatentCount", vae=vae, frames=121, fps=29.97)
    assert server.run(g.prompt).report() == 101


LATENT_GUIDES = {
    "same size": {"latent_idx": 0, "side": 64},
    "half the size": {"latent_idx": 0, "side": 32},
    "half the size amid": {"latent_idx": 1, "side": 32, "strength": 0.6},
    "before the clip": {"latent_idx": -1, "side": 64, "strength": 0.8},
    "half the size, masked, amplified": {"latent_idx": 1, "side": 32, "strength": 1.7, "masked": True},
}
"""Case -> where the guide of *LTXVAddLatentGuide* lies, and how many pixels its frames have."""


def add_latent_guide(
    b: LTXBench, latent_idx: int, side: int, strength: float = 1.0, masked: bool = False
) -> Link:
    more = {"attention_mask": b.mask(9)} if masked else {}
    values = {"latent_idx": latent_idx, "strength": strength, "guiding_latent": b.encoded(9, side)}
    ends = {"positive": b.text, "negative": b.text[1], "vae": b.vae}
    return b.g.add("LTX2ProbeLatentGuide", latent=b.video, **ends, **values, **more)


@pytest.mark.parametrize("case", LATENT_GUIDES)
def test_a_latent_guide_acts_as_on_cores_model(
    server: Server, models: TinyModels, case: str, streams_off: str, guides_of_today: bool
) -> None:
    if not guides_of_today:
        pytest.skip("this ComfyUI spreads no small guides")

    def build(b: LTXBench) -> Link:
        b.text = add_latent_guide(b, **LATENT_GUIDES[case])
        return b.with_video(b.text[2])

    assert_as_on_core(server, models, build, streams_off)


@pytest.mark.parametrize("case", LATENT_GUIDES)
def test_our_crop_removes_a_latent_guide(
    server: Server, models: TinyModels, case: str, guides_of_today: bool
) -> None:
    if not guides_of_today:
        pytest.skip("this ComfyUI spreads no small guides")
    b = LTXBench(models, server.get("/object_info"), ours=True, streams_off="")
    before = b.video
    guided = add_latent_guide(b, **LATENT_GUIDES[case])
    ends = {"positive": guided, "negative": guided[1]}
    cropped = b.g.add("LTX2AVCropGuides", latent=guided[2], **ends)
    plain = b.g.add("LTX2AVCropGuides", positive=b.text, negative=b.text[1], latent=before)
    b.text = cropped
    found = b.run(server, cropped=cropped[2], plain=plain[2])
    assert found["cropped"].keys() == found["plain"].keys()
    # The holes of a small guide need a mask of all cells, also where the clip had one value a frame.
    assert all(
        torch.equal(*torch.broadcast_tensors(value, found["plain"][name]))
        for name, value in found["cropped"].items()
    )


def test_a_vae_is_decoded_whole_before_it_is_divided(server: Server, models: TinyModels) -> None:
    """Ours decodes in memory that does not grow with the clip, so no host should begin with tiles."""
    b = LTXBench(models, server.get("/object_info"), ours=True, streams_off="")
    b.g.add("LTX2ProbeLaterDecode", vae=b.vae, latent=b.encoded(25))
    found = server.run(b.g.prompt).report()
    assert (found["set"], found["own tiling"], found["formatted"]) == ([], False, False)
    assert found["bytes"] == sorted(found["bytes"], reverse=True)
    assert found["whole"] == found["tiles"] == [1, 25, 64, 64, 3]


@pytest.mark.parametrize("shape", [(32, 64), (48, 128)])
@pytest.mark.parametrize("kind", ["w4a4", "w4a8", "w4a8 with values"])
def test_four_bit_weights_are_decoded_as_the_hosts_library_decodes_them(kind: str, shape: tuple[int, int]):
    """From 0.33 on; in other versions these files are decoded when they are loaded."""
    module = {"w4a4": "convrot_w4a4"}.get(kind, "w4a8_int8")
    theirs = pytest.importorskip(f"comfy_kitchen.tensor.{module}")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if kind == "w4a4":
        packed, scale = theirs.quantize_convrot_w4a4_weight(weight, 64)
        parts = {"weight": packed, "weight_scale": scale}
        expected = theirs.dequantize_convrot_w4a4_weight(packed, scale, 64)
    else:
        values = kind.endswith("values")
        packed, rel, channel, correction, codebook = theirs.quantize_w4a8_int8_weight(
            weight, 16, 64, codebook=values
        )
        assert correction is None
        parts = dict(zip(("weight", *GROUP_SCALES), (packed, rel, channel, codebook), strict=True))
        assert (codebook is not None) == values
        options = {"group_size": 16, "convrot_groupsize": 64, "output_dtype": torch.float32}
        expected = theirs.dequantize_w4a8_int8_weight(packed, rel, channel, codebook, **options)
    held = {suffix: part for suffix, part in parts.items() if part is not None}
    found = decode("layer", Format(kind[:4], 64), held, shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - weight).norm() / weight.norm() < 0.2
