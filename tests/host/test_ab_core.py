"""The same graph on the host's networks and on ours, with the same tiny float32 weights, gives the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from host_graph import Graph, Guide, Link, Recipe, Whose, load, sample
from host_server import Result, Server
from tiny_models import GENERATIONS, TinyModels
from torch import Tensor

TOLERANCE = 1e-5
"""Relative L2; measured 3e-6 at most. A q/k norm epsilon of 1e-6 instead of 1e-5 shows as 2e-5."""

RECIPES = {
    "text": Recipe(),
    "one_step_without_guidance": Recipe(steps=1, cfg=1.0),
    "batch": Recipe(batch=2),
    "ancestral": Recipe(sampler="euler_ancestral"),
    "multistep": Recipe(sampler="dpmpp_2m", steps=3),
    "image": Recipe(image_strength=1.0),
    "image_soft": Recipe(image_strength=0.6, batch=2),
    "frame_mask": Recipe(frames=17, frame_mask="0,1,0.5"),
    "audio_frozen": Recipe(audio_mask="0,0,0,0,0,0,0,0,0"),
    "audio_part": Recipe(audio_mask="0,0,0,0,0.5,1,1,1,1"),
    "video_only": Recipe(audio=False),
    "video_only_image": Recipe(audio=False, image_strength=1.0),
    "guide_last": Recipe(frames=17, guides=(Guide(1, -1),)),
    "guide_clip": Recipe(frames=33, guides=(Guide(16, 9),)),
    "guides_soft": Recipe(frames=17, guides=(Guide(1, 0), Guide(1, -1, 0.5))),
    "guide_amplified": Recipe(frames=17, guides=(Guide(1, -1, 1.7),)),
    "guide_masked": Recipe(frames=17, guides=(Guide(9, 0, 0.8, masked=True),)),
    "guide_and_image": Recipe(frames=17, image_strength=0.7, guides=(Guide(1, -1, 0.5),)),
    "reference_audio": Recipe(reference_audio=True),
    "reference_audio_frozen_part": Recipe(reference_audio=True, audio_mask="0,0,0,0,1,1,1,1,1"),
}


def run(
    server: Server, models: TinyModels, generation: str, recipe: Recipe, whose: Whose
) -> dict[str, Tensor]:
    """Sample with one side's transformer; the inputs of both sides come from the host's autoencoders."""
    g = Graph()
    loaded = load(g, models, generation, model=whose, vae="core")
    g.dump("latent", latent=sample(g, loaded, recipe, whose_lora=whose))
    return server.run(g.prompt).tensors("latent")


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of ``b`` from ``a``; shapes must agree."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return ((a - b).norm() / a.norm().clamp_min(1e-12)).item()


def assert_same(core: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    assert core.keys() == ours.keys()
    for name, tensor in core.items():
        assert torch.isfinite(tensor.float()).all(), name
        distance = relative(tensor.float(), ours[name].float())
        assert distance < TOLERANCE, f"{name}: {distance:.1e}"


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_our_model_samples_what_the_hosts_does(
    server: Server,
    models: TinyModels,
    name: str,
    generation: str,
    streams_off: str,
    guides_of_today: bool,
) -> None:
    recipe = replace(RECIPES[name], streams_off=streams_off)
    if not guides_of_today and any(guide.masked or guide.strength > 1 for guide in recipe.guides):
        pytest.skip("core's Add Guide up to 0.21 has no attention mask and no strength above 1")
    core, ours = (run(server, models, generation, recipe, whose) for whose in ("core", "ours"))
    assert_same(core, ours)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_lora_changes_our_model_as_it_does_the_hosts(
    server: Server, models: TinyModels, generation: str, streams_off: str
) -> None:
    recipe = Recipe(lora=models.lora, streams_off=streams_off)
    core, ours = (run(server, models, generation, recipe, whose) for whose in ("core", "ours"))
    assert_same(core, ours)
    without = run(server, models, generation, Recipe(streams_off=streams_off), "ours")
    assert relative(without["latent/video"], ours["latent/video"]) > 1e-3


def test_the_hosts_lora_loader_works_on_our_model(server: Server, models: TinyModels) -> None:
    recipe = Recipe(lora=models.lora)

    def sampled(whose_lora: Whose) -> dict[str, Tensor]:
        g = Graph()
        loaded = load(g, models, "2.3", model="ours", vae="core")
        g.dump("latent", latent=sample(g, loaded, recipe, whose_lora=whose_lora))
        return server.run(g.prompt).tensors("latent")

    assert_same(sampled("core"), sampled("ours"))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_reference_at_half_size_is_read_as_the_host_reads_it(
    server: Server, models: TinyModels, generation: str, streams_off: str, guides_of_today: bool
) -> None:
    if not guides_of_today:
        pytest.skip("core up to 0.21 has no Get IC-LoRA Parameters")
    guides = (Guide(9, 0, 0.8),)
    recipe = Recipe(frames=17, guides=guides, lora=models.ic_lora, ic_lora=True, streams_off=streams_off)
    core, ours = (run(server, models, generation, recipe, whose) for whose in ("core", "ours"))
    assert (core["mask/video"] < 0).any(), "the guide was not spread over the finer grid"
    assert_same(core, ours)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_model_that_is_only_partly_loaded_samples_the_same(
    server: Server, models: TinyModels, generation: str
) -> None:
    def sampled(partial: bool) -> dict[str, Tensor]:
        g = Graph()
        loaded = load(g, models, generation, model="ours", vae="core")
        model = g.add("LTX2ProbeLora", model=loaded.model, name=models.lora, strength=1.0)
        if partial:
            model = g.add("LTX2ProbePartialLoad", model=model)
        part = type(loaded)(model, loaded.vae, loaded.audio_vae, loaded.clip)
        g.dump("latent", latent=sample(g, part, Recipe()))
        return server.run(g.prompt).tensors("latent")

    whole, before = sampled(False), server.log().count("loaded partially")
    assert_same(whole, sampled(True))
    assert server.log().count("loaded partially") > before


@pytest.mark.parametrize("generation", GENERATIONS)
def test_our_autoencoders_decode_and_encode_what_the_hosts_do(
    server: Server, models: TinyModels, generation: str
) -> None:
    def coded(whose: Whose) -> Result:
        g = Graph()
        loaded = load(g, models, generation, model="core", vae=whose)
        latent = sample(g, loaded, Recipe(frames=25, steps=1, cfg=1.0))
        parts = g.add("LTXVSeparateAVLatent", av_latent=latent)
        g.dump("frames", image=g.add("VAEDecode", samples=latent, vae=loaded.vae))
        g.dump(
            "tiles",
            image=g.add(
                "VAEDecodeTiled",
                samples=parts[0],
                vae=loaded.vae,
                tile_size=64,
                overlap=32,
                temporal_size=16,
                temporal_overlap=8,
            ),
        )
        g.dump("audio", audio=g.add("LTXVAudioVAEDecode", samples=parts[1], audio_vae=loaded.audio_vae))
        image = g.add("LTX2ProbeImage", seed=5, frames=20, width=96, height=64)
        g.dump("encoded", latent=g.add("VAEEncode", pixels=image, vae=loaded.vae))
        return server.run(g.prompt)

    core, ours = coded("core"), coded("ours")
    for name in ("frames", "tiles", "audio", "encoded"):
        assert_same(core.tensors(name), ours.tensors(name))


UPSCALER_LOADERS: dict[Whose, str] = {"core": "LatentUpscaleModelLoader", "ours": "LTX2ProbeLoadUpscaler"}


def upscaled(server: Server, models: TinyModels, loader: Whose, node: Whose) -> dict[str, Tensor]:
    """A latent after one side's upscaling node, with the upscaler of one side's loader."""
    g = Graph()
    vae = load(g, models, "2.3", model="core").vae
    image = g.add("LTX2ProbeImage", seed=6, frames=9, width=96, height=64)
    latent = g.add("VAEEncode", pixels=image, vae=vae)
    upscaler = g.add(UPSCALER_LOADERS[loader], model_name=models.upsampler)
    if node == "core":
        larger = g.add("LTXVLatentUpsampler", samples=latent, upscale_model=upscaler, vae=vae)
    else:
        larger = g.add("LTX2AVLatentUpscale", latent=latent, upscale_model=upscaler, video_vae=vae)
    g.dump("latent", latent=larger)
    return server.run(g.prompt).tensors("latent")


@pytest.mark.parametrize("loader", ["core", "ours"])
@pytest.mark.parametrize("node", ["core", "ours"])
def test_either_loader_of_upscalers_serves_either_node(
    server: Server, models: TinyModels, loader: Whose, node: Whose
) -> None:
    assert_same(upscaled(server, models, "core", "core"), upscaled(server, models, loader, node))


def test_our_loader_of_upscalers_makes_the_kind_that_the_hosts_makes(
    server: Server, models: TinyModels
) -> None:
    g = Graph()
    core, ours = (g.add(UPSCALER_LOADERS[whose], model_name=models.upsampler) for whose in ("core", "ours"))
    g.add("LTX2ProbeUpscalers", first=core, second=ours)
    first, second = server.run(g.prompt).report()["kinds"]
    assert first == second


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("padding", [0, 7])
def test_our_text_encoder_gives_the_hosts_conditioning(
    server: Server, models: TinyModels, generation: str, padding: int
) -> None:
    g = Graph()
    clip = load(g, models, generation, model="core").clip
    text = "a blue cube spins slowly; a soft tone rises"
    g.dump("ours", conditioning=g.add("CLIPTextEncode", clip=clip, text=text))
    g.dump("core", conditioning=g.add("LTX2ProbeCoreText", clip=clip, text=text, padding=padding))
    result = server.run(g.prompt)
    assert_same(result.tensors("core"), result.tensors("ours"))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(("model", "vae"), [("ours", "core"), ("core", "ours")])
def test_loaders_of_both_sides_may_be_mixed_in_one_graph(
    server: Server, models: TinyModels, generation: str, model: Whose, vae: Whose, streams_off: str
) -> None:
    def decoded(model: Whose, vae: Whose) -> Result:
        g = Graph()
        loaded = load(g, models, generation, model=model, vae=vae)
        latent = sample(g, loaded, Recipe(image_strength=1.0, streams_off=streams_off))
        parts = g.add("LTXVSeparateAVLatent", av_latent=latent)
        g.dump("frames", image=g.add("VAEDecode", samples=parts[0], vae=loaded.vae))
        g.dump("audio", audio=g.add("LTXVAudioVAEDecode", samples=parts[1], audio_vae=loaded.audio_vae))
        return server.run(g.prompt)

    core, mixed = decoded("core", "core"), decoded(model, vae)
    for name in ("frames", "audio"):
        assert_same(core.tensors(name), mixed.tensors(name))


def test_samplers_of_the_older_kind_work_too(server: Server, models: TinyModels, streams_off: str) -> None:
    def sampled(whose: Whose) -> dict[str, Tensor]:
        g = Graph()
        loaded = load(g, models, "2.3", model=whose, vae="core")
        inner = sample(g, loaded, Recipe(streams_off=streams_off))
        inputs = g.prompt[inner.node]["inputs"]
        guider = g.prompt[inputs["guider"][0]]["inputs"]
        latent = g.add(
            "KSampler",
            model=Link(*guider["model"]),
            positive=Link(*guider["positive"]),
            negative=Link(*guider["negative"]),
            latent_image=Link(*inputs["latent_image"]),
            seed=7,
            steps=2,
            cfg=2.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=0.9,
        )
        g.dump("latent", latent=latent)
        return server.run(g.prompt).tensors("latent")

    assert_same(sampled("core"), sampled("ours"))
