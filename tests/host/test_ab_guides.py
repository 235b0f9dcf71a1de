"""Our guide nodes give what core's give, for every kind of guide, and refuse orders that core lets pass."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from host_graph import Graph, Link
from host_server import GraphError, Server
from test_nodes import checkpoint, image, our_latent, prompt, stage, text_encoder
from tiny_models import TinyModels

SIDE = 64
CONDITIONING = ("keyframe_idxs",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Guides (images, frame, strength) on a clip of ``frames``."""

    frames: int = 33
    guides: tuple[tuple[int, int, float], ...]
    in_place: bool = False
    masked: bool = False
    ic_lora: str = ""
    """Whose loader says how small the guide is."""
    old: bool = False
    """Whether core placed such guides the same up to 0.21, but for how it fits images to the size."""


CASES = {
    "first": Case(guides=((1, 0, 1.0),), old=True),
    "last": Case(guides=((1, -1, 1.0),), old=True),
    "anywhere_soft": Case(guides=((1, 13, 0.4),), old=True),
    "amplified": Case(guides=((1, -1, 1.7),)),
    "clip_at_start": Case(guides=((17, 0, 0.8),), old=True),
    "clip_amid": Case(guides=((16, 12, 1.0),)),
    "nine_amid": Case(guides=((9, 9, 1.0),)),
    "few_amid": Case(guides=((5, 20, 1.0),)),
    "clip_from_the_end": Case(guides=((16, -16, 1.0),)),
    "two_at_one_frame": Case(guides=((1, 8, 1.0), (1, 8, 0.5))),
    "after_an_image": Case(guides=((1, -1, 0.5),), in_place=True, old=True),
    "masked": Case(guides=((9, 0, 0.8),), masked=True),
    "small": Case(guides=((9, 0, 0.8),), ic_lora="core"),
    "small_masked_amid": Case(guides=((16, 9, 1.0),), ic_lora="ours", masked=True),
}


def start(g: Graph, models: TinyModels, case: Case) -> tuple[Link, Link, Link, dict[str, Link]]:
    loaded = checkpoint(g, models)
    latent = g.add("LTX2AVSeparateLatent", latent=our_latent(g, frames=case.frames))
    if case.in_place:
        latent = g.add(
            "LTXVImgToVideoInplace", vae=loaded[1], image=image(g), latent=latent, strength=0.7, bypass=False
        )
    more = {}
    if case.masked:
        mask = g.add("LTX2ProbeImage", seed=60, frames=9, width=SIDE, height=SIDE)
        more["attention_mask"] = g.add("ImageToMask", image=mask, channel="red")
    if case.ic_lora == "core":
        lora = g.add("LoraLoaderModelOnly", model=loaded, lora_name=models.ic_lora, strength_model=1.0)
        more["iclora_parameters"] = g.add("GetICLoRAParameters", iclora_model=lora)
    elif case.ic_lora:
        lora = g.add("LTX2AVLoadLora", model=loaded, lora=models.ic_lora, strength=1.0)
        more["iclora_parameters"] = lora[2]
    return loaded, prompt(g, text_encoder(g, models)), latent, more


def core_guide(
    g: Graph, vae: Link, cond: Link, latent: Link, pictures: Link, frame: int, strength: float, more
):
    return g.add(
        "LTXVAddGuide",
        positive=cond,
        negative=cond[1],
        vae=vae,
        latent=latent,
        image=pictures,
        frame_idx=frame,
        strength=strength,
        **more,
    )


def our_guide(
    g: Graph,
    vae: Link,
    cond: Link,
    latent: Link,
    pictures: Link,
    frame: int,
    strength: float = 1.0,
    more=None,
):
    return g.add(
        "LTX2AVAddGuide",
        positive=cond,
        negative=cond[1],
        video_vae=vae,
        latent=latent,
        image=pictures,
        frame=frame,
        strength=strength,
        attention_strength=0.0,
        crf=0,
        downscale=0,
        **(more or {}),
    )


@pytest.mark.parametrize("name", CASES)
def test_guides_are_cores_and_so_is_what_is_left_without_them(
    server: Server, models: TinyModels, name: str, guides_of_today: bool
):
    case, g = CASES[name], Graph()
    if not guides_of_today and not case.old:
        pytest.skip("core up to 0.21 places such guides otherwise, or does not have them")
    # Where nothing has to be cut, both ways to fit an image are the same.
    width = 90 if guides_of_today else SIDE
    loaded, text, latent, more = start(g, models, case)
    core, ours = (text, latent), (text, latent)
    for number, (count, frame, strength) in enumerate(case.guides):
        pictures = g.add("LTX2ProbeImage", seed=40 + number, frames=count, width=width, height=SIDE)
        made = core_guide(g, loaded[1], *core, pictures, frame, strength, more)
        core = (made, made[2])
        made = our_guide(g, loaded[1], *ours, pictures, frame, strength, more)
        ours = (made, made[2])
    g.dump("core", latent=core[1], conditioning=core[0][1])
    g.dump("ours", latent=ours[1], conditioning=ours[0][1])
    options = {
        "noise": g.add("RandomNoise", noise_seed=1),
        "sampler": g.add("KSamplerSelect", sampler_name="euler"),
    }
    options["sigmas"] = g.add("ManualSigmas", sigmas="1.0, 0.6, 0.0")
    for side, (cond, made) in (("core", core), ("ours", ours)):
        guider = g.add("CFGGuider", model=loaded, positive=cond, negative=cond[1], cfg=2.0)
        sampled = g.add("SamplerCustomAdvanced", guider=guider, latent_image=made, **options)
        crop = "LTXVCropGuides" if side == "core" else "LTX2AVCropGuides"
        cropped = g.add(crop, positive=cond, negative=cond[1], latent=sampled)
        g.dump(f"{side} cropped", latent=cropped[2], conditioning=cropped[1])
    result = server.run(g.prompt)
    for mine, theirs in (("ours", "core"), ("ours cropped", "core cropped")):
        left, right = result.tensors(mine), result.tensors(theirs)
        assert left.keys() == right.keys()
        assert ("cond/keyframe_idxs" in left) == (mine == "ours")
        for key in right:
            assert left[key].shape == right[key].shape, key
            difference = (left[key].float() - right[key].float()).abs().max()
            assert difference == 0, f"{mine} {key}: {difference:.1e}"


def test_a_guide_takes_and_returns_an_audio_video_latent(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    latent = our_latent(g, frames=17)
    video = g.add("LTX2AVSeparateLatent", latent=latent)
    whole = our_guide(g, loaded[1], text, latent, image(g), -1)
    apart = our_guide(g, loaded[1], text, video, image(g), -1)
    joined = g.add("LTX2AVConcatLatent", video_latent=apart[2], audio_latent=video[1])
    g.dump("whole", latent=whole[2], conditioning=whole)
    g.dump("apart", latent=joined, conditioning=apart)
    cropped = g.add("LTX2AVCropGuides", positive=whole, negative=whole[1], latent=whole[2])
    g.dump("cropped", latent=cropped[2])
    g.dump("before", latent=latent)
    result = server.run(g.prompt)
    whole, apart = result.tensors("whole"), result.tensors("apart")
    assert whole.keys() == apart.keys()
    assert all((whole[k] == apart[k]).all() for k in whole)
    assert whole["latent/video"].shape[2] == 4
    before, after = result.tensors("before"), result.tensors("cropped")
    assert (before["latent/video"] == after["latent/video"]).all()
    assert (before["latent/audio"] == after["latent/audio"]).all()


def upscale_with_guides(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    guided = our_guide(g, loaded[1], text, our_latent(g), image(g), 0)
    sampled = stage(g, loaded, guided, guided[2])
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler)
    return g.add("LTX2AVLatentUpscale", latent=sampled, upscale_model=upscaler, video_vae=loaded[1])


def guide_of_another_stage(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    guided = our_guide(g, loaded[1], text, our_latent(g), image(g), 0)
    later = g.add("LTX2AVEmptyLatent", width=128, height=128, frames=9, fps=24.0, batch_size=1)
    return our_guide(g, loaded[1], guided, later, image(g), 0)[2]


def guide_past_the_end(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    return our_guide(g, loaded[1], text, our_latent(g), image(g, frames=16), 9)[2]


def guides_without_their_latent(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    return stage(g, loaded, our_guide(g, loaded[1], text, our_latent(g), image(g), 0), our_latent(g))


def guides_without_their_conditioning(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    return stage(g, loaded, text, our_guide(g, loaded[1], text, our_latent(g), image(g), 0)[2])


def conditioning_from_before_the_crop(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    guided = our_guide(g, loaded[1], text, our_latent(g), image(g), 0)
    cropped = g.add("LTX2AVCropGuides", positive=guided, negative=guided[1], latent=guided[2])
    return stage(g, loaded, guided, cropped[2])


def decoded_with_guides(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    guided = our_guide(g, loaded[1], text, our_latent(g), image(g), 0)
    pictures = g.add("LTX2AVDecodeVideo", video_vae=loaded[1], latent=guided[2])
    return g.add("VAEEncode", pixels=pictures, vae=loaded[1])


TOGETHER = "connect positive, negative and latent of the last LTX-2 Add Guide"
MISTAKES = {
    guides_without_their_latent: TOGETHER,
    guides_without_their_conditioning: TOGETHER,
    conditioning_from_before_the_crop: "after LTX-2 Crop Guides its three outputs",
    decoded_with_guides: "move LTX-2 Crop Guides between the sampler and LTX-2 Decode Video",
    upscale_with_guides: "move LTX-2 Crop Guides between the sampler and LTX-2 Latent Upscale",
    guide_of_another_stage: "move LTX-2 Crop Guides before the upscaler",
    guide_past_the_end: "use fewer frames or an earlier position",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_wrong_order_names_the_node_to_move(server: Server, models: TinyModels, mistake):
    g = Graph()
    g.dump("x", latent=mistake(g, models))
    with pytest.raises(GraphError, match=MISTAKES[mistake]):
        server.run(g.prompt)
