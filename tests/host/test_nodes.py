"""Each node gives what core's nodes give for the same values; every node has its page of help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from host_graph import Graph
from host_server import Server
from node_graphs import (
    FPS,
    SIDE,
    assert_equal,
    checkpoint,
    core_latent,
    image,
    masked,
    our_latent,
    plan_node,
    prompt,
    sound_of,
    stage,
    text_encoder,
)
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import TinyModels

SECOND_STAGE = "0.909375, 0.725, 0.421875, 0"
DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"


@pytest.mark.parametrize("batch", [1, 2])
def test_the_empty_latent_is_cores(server: Server, models: TinyModels, batch: int):
    g = Graph()
    g.dump("core", latent=core_latent(g, checkpoint(g, models)[2], batch=batch))
    g.dump("ours", latent=our_latent(g, batch=batch))
    assert_equal(server.run(g.prompt))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_a_stage_is_what_cores_seven_nodes_give(server: Server, models: TinyModels, sampler: str):
    g = Graph()
    loaded, clip = checkpoint(g, models), text_encoder(g, models)
    texts = [g.add("CLIPTextEncode", clip=clip, text=text) for text in ("a red ball", "noise")]
    cond = g.add("LTXVConditioning", positive=texts[0], negative=texts[1], frame_rate=FPS)
    core = g.add(
        "SamplerCustomAdvanced",
        noise=g.add("RandomNoise", noise_seed=42),
        guider=g.add("CFGGuider", model=loaded, positive=cond, negative=cond[1], cfg=3.0),
        sampler=g.add("KSamplerSelect", sampler_name=sampler),
        sigmas=g.add("ManualSigmas", sigmas=SECOND_STAGE),
        latent_image=core_latent(g, loaded[2]),
    )
    g.dump("core", latent=core)
    g.dump("ours", latent=stage(g, loaded, prompt(g, clip), our_latent(g), sampler=sampler))
    assert_equal(server.run(g.prompt))


def test_the_schedule_is_cores_to_the_last_digits_of_float32(server: Server, models: TinyModels):
    g = Graph()
    shape = {"steps": 20, "max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}
    latent = our_latent(g, frames=33)
    g.dump("core", sigmas=g.add("LTXVScheduler", latent=latent, **shape))
    g.dump("ours", sigmas=g.add("LTX2AVScheduler", latent=latent, **shape))
    result = server.run(g.prompt)
    core, ours = (result.tensors(name)["sigmas"] for name in ("core", "ours"))
    torch.testing.assert_close(ours, core, atol=3e-7, rtol=0)


def test_the_guidance_of_the_audio_leaves_the_video_of_the_step_alone(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    one = {"schedule": "LTX-2 scheduler", "steps": 1}
    for name, audio_cfg in (("same", 3.0), ("other", 6.0), ("off", 0.0)):
        g.dump(name, latent=stage(g, loaded, text, our_latent(g), audio_cfg=audio_cfg, **one))
    result = server.run(g.prompt)
    assert_equal(result, "same", "off")
    same, other = result.tensors("same"), result.tensors("other")
    torch.testing.assert_close(other["latent/video"], same["latent/video"], atol=1e-5, rtol=1e-5)
    assert (other["latent/audio"] - same["latent/audio"]).abs().max() > 1e-3


@pytest.mark.parametrize("frames", [1, 9, 12])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_an_image_in_place_is_cores(
    server: Server, models: TinyModels, frames: int, strength: float, guides_of_today: bool
):
    g = Graph()
    loaded, picture = checkpoint(g, models), image(g, frames)
    # Core up to 0.20 discards the mask that the latent has.
    before = "1,1,0.5,0.2,1" if guides_of_today else "1,1,1,1,1"
    start = masked(g, core_latent(g, loaded[2], frames=33), before)
    parts = g.add("LTXVSeparateAVLatent", av_latent=start)
    placed = g.add(
        "LTXVImgToVideoInplace", vae=loaded[1], image=picture, latent=parts, strength=strength, bypass=False
    )
    ours = {"video_vae": loaded[1], "image": picture, "strength": strength, "crf": 0}
    g.dump("core", latent=placed)
    g.dump("ours", latent=g.add("LTX2AVImgToVideoInplace", latent=parts, **ours))
    g.dump("core_av", latent=g.add("LTXVConcatAVLatent", video_latent=placed, audio_latent=parts[1]))
    g.dump("ours_av", latent=g.add("LTX2AVImgToVideoInplace", latent=start, **ours))
    g.dump("start", latent=start)
    result = server.run(g.prompt)
    assert_equal(result)
    assert_equal(result, "ours_av", "core_av")
    assert not result.tensors("start")["latent/video"].any(), "inputs are never written to"


def test_compression_is_cores_and_can_be_part_of_the_placing(server: Server, models: TinyModels):
    g = Graph()
    loaded, picture = checkpoint(g, models), image(g, 2, SIDE, SIDE)
    squeezed = g.add("LTXVPreprocess", image=picture, img_compression=33)
    g.dump("core", image=squeezed)
    g.dump("ours", image=g.add("LTX2AVPreprocess", image=picture, crf=33))
    place = {"video_vae": loaded[1], "latent": our_latent(g), "strength": 1.0}
    g.dump("before", latent=g.add("LTX2AVImgToVideoInplace", image=squeezed, crf=0, **place))
    g.dump("within", latent=g.add("LTX2AVImgToVideoInplace", image=picture, crf=33, **place))
    result = server.run(g.prompt)
    assert_equal(result)
    assert_equal(result, "within", "before")


@pytest.mark.parametrize(("version", "crf"), [("2.0.0", 33), ("2.3.0", 33), ("2.4.0", 18), ("2.5.0", 18)])
@pytest.mark.parametrize("count", [1, 9])
def test_stills_are_compressed_as_the_checkpoint_was_trained_and_clips_are_not(
    server: Server, models: TinyModels, version: str, crf: int, count: int
):
    g = Graph()
    vae = g.add("LTX2AVLoadCheckpoint", ckpt_name=stated(server, models, version))[1]
    latent = our_latent(g, frames=17)
    place = {"video_vae": vae, "image": image(g, count, SIDE, SIDE), "latent": latent, "strength": 1.0}
    text = prompt(g, text_encoder(g, models))
    guide = {**place, "positive": text, "negative": text[1], "frame": 8, "downscale": 1}
    for name, value in (("model", -1), ("typed", crf if count == 1 else 0)):
        placed = g.add("LTX2AVImgToVideoInplace", crf=value, **place)
        guided = g.add("LTX2AVAddGuide", crf=value, attention_strength=0.0, **guide)
        g.dump(f"{name} placed", latent=placed)
        g.dump(f"{name} guided", latent=guided[2])
    result = server.run(g.prompt)
    assert_equal(result, "model placed", "typed placed")
    assert_equal(result, "model guided", "typed guided")


def stated(server: Server, models: TinyModels, version: str) -> str:
    """A checkpoint whose header states that version."""
    folder = server.base / "models" / "checkpoints"
    name = f"stated-{version}.safetensors"
    if not (folder / name).exists():
        with safe_open(folder / models.checkpoints["2.3"], "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 it is no mapping
            save_file(tensors, folder / name, {**file.metadata(), "model_version": version})
    return name


def test_joining_and_taking_apart_are_cores_masks_included(server: Server, models: TinyModels):
    g = Graph()
    start = masked(g, core_latent(g, checkpoint(g, models)[2]), "0.3,1")
    core = g.add("LTXVSeparateAVLatent", av_latent=start)
    ours = g.add("LTX2AVSeparateLatent", latent=start)
    for part, name in enumerate(("video", "audio")):
        g.dump(f"core_{name}", latent=core[part])
        g.dump(f"ours_{name}", latent=ours[part])
    g.dump("core", latent=g.add("LTXVConcatAVLatent", video_latent=core, audio_latent=core[1]))
    g.dump("ours", latent=g.add("LTX2AVConcatLatent", video_latent=ours, audio_latent=ours[1]))
    result = server.run(g.prompt)
    for suffix in ("", "_video", "_audio"):
        assert_equal(result, f"ours{suffix}", f"core{suffix}")


def test_upscaling_is_cores_and_preserves_the_audio(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler)
    sampled = stage(g, loaded, text, masked(g, our_latent(g), "0.5,1"))
    parts = g.add("LTXVSeparateAVLatent", av_latent=sampled)
    larger = g.add("LTXVLatentUpsampler", samples=parts, upscale_model=upscaler, vae=loaded[1])
    g.dump("core", latent=g.add("LTXVConcatAVLatent", video_latent=larger, audio_latent=parts[1]))
    ours = {"upscale_model": upscaler, "video_vae": loaded[1]}
    g.dump("ours", latent=g.add("LTX2AVLatentUpscale", latent=sampled, **ours))
    g.dump("core_video", latent=larger)
    g.dump("ours_video", latent=g.add("LTX2AVLatentUpscale", latent=parts, **ours))
    result = server.run(g.prompt)
    assert_equal(result)
    assert_equal(result, "ours_video", "core_video")
    assert "mask" not in result.tensors("ours_video")


@pytest.mark.parametrize("whose", ["ours", "core"])
def test_decoding_is_cores_and_the_file_has_the_same_frames(server: Server, models: TinyModels, whose: str):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    vae, audio_vae = loaded[1], loaded[2]
    if whose == "core":
        name = models.checkpoints["2.3"]
        vae = g.add("CheckpointLoaderSimple", ckpt_name=name)[2]
        audio_vae = g.add("LTXVAudioVAELoader", ckpt_name=name)
    sampled = stage(g, loaded, text, our_latent(g, frames=25, batch=2))
    parts = g.add("LTXVSeparateAVLatent", av_latent=sampled)
    frames = g.add("LTX2AVDecodeVideo", video_vae=vae, latent=sampled)
    g.dump("core", image=g.add("VAEDecode", samples=parts, vae=vae))
    g.dump("ours", image=frames)
    g.dump("core_sound", audio=g.add("LTXVAudioVAEDecode", samples=parts[1], audio_vae=audio_vae))
    g.dump("ours_sound", audio=g.add("LTX2AVDecodeAudio", audio_vae=audio_vae, latent=sampled))
    values = {"fps": FPS, "crf": 0, "batch_index": 1, "audio_vae": audio_vae}
    video = g.add("LTX2AVDecodeToVideo", video_vae=vae, latent=sampled, **values)
    read = g.add("GetVideoComponents", video=video)
    g.dump("file", image=read, audio=read[1])
    result = server.run(g.prompt)
    assert_equal(result)
    assert_equal(result, "ours_sound", "core_sound")
    shown, expected = result.tensors("file"), result.tensors("ours")["image"][25:]
    assert shown["image"].shape == expected.shape
    # Files halve the resolution of colour, and random weights decode to colour noise: compare brightness.
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    assert ((shown["image"] - expected) @ weights).abs().mean() < 0.02
    assert int(shown["sample_rate"]) == 48000


def test_input_audio_is_encoded_as_core_does_and_survives_both_stages(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler)
    # Core crops to 4096 samples at 44.1 kHz, around the middle; of this audio it crops nothing.
    sound = g.add("LTX2ProbeAudio", samples=10 * 4096, sample_rate=44100, channels=1)
    given = g.add("LTX2AVSetAudio", audio_vae=loaded[2], audio=sound, latent=our_latent(g), start=0.0)
    first = stage(g, loaded, text, given)
    larger = g.add("LTX2AVLatentUpscale", latent=first, upscale_model=upscaler, video_vae=loaded[1])
    g.dump("whole", latent=g.add("LTXVAudioVAEEncode", audio=sound, audio_vae=loaded[2]))
    g.dump("given", latent=given, audio=given[1])
    g.dump("last", latent=stage(g, loaded, text, larger, cfg=1.0))
    result = server.run(g.prompt)
    given_, last = result.tensors("given"), result.tensors("last")
    latents = given_["latent/audio"].shape[2]
    torch.testing.assert_close(
        given_["latent/audio"], result.tensors("whole")["latent"][:, :, :latents], atol=1e-5, rtol=1e-5
    )
    # The host's sampler steps towards the input latent and reaches it except for rounding.
    torch.testing.assert_close(last["latent/audio"], given_["latent/audio"], atol=1e-5, rtol=1e-5)
    assert not given_["mask/audio"].any()
    assert given_["mask/video"].all()
    assert given_["waveform"].shape[-1] == latents * 44100 // 25


def test_short_audio_is_followed_by_silence_and_the_node_says_so(server: Server, models: TinyModels):
    g = Graph()
    loaded = checkpoint(g, models)
    sound = sound_of(g, 0.5, 22050, 2)
    given = g.add(
        "LTX2AVSetAudio", audio_vae=loaded[2], audio=sound, latent=our_latent(g, frames=25), start=0.1
    )
    g.dump("given", latent=given, audio=given[1])
    result = server.run(g.prompt)
    (report,) = (o["text"][0] for o in result.outputs.values() if "text" in o)
    assert "0.68 s of silence added" in report
    waveform = result.tensors("given")["waveform"]
    assert waveform.shape[-1] == 27 * 22050 // 25
    assert waveform[..., :8000].any()
    assert not waveform[..., 8821:].any()


def test_a_plan_says_what_it_rounded_and_gives_the_latent_of_the_first_stage(
    server: Server, models: TinyModels
):
    g = Graph()
    plan = plan_node(g, width=150, height=130, length=1.0)
    g.dump("first", latent=plan[1])
    result = server.run(g.prompt)
    (report,) = (o["text"][0] for o in result.outputs.values() if "text" in o)
    assert "width is 128 instead of 150" in report
    assert "25 frames" in report
    assert "first stage: 64 x 64" in report
    first = result.tensors("first")
    assert first["latent/video"].shape == (1, 128, 4, 2, 2)
    assert first["latent/audio"].shape == (1, 8, 27, 16)


@pytest.mark.parametrize(
    ("size", "stages", "megapixels", "planned"),
    [
        ((1920, 1080), "2", 1.0, (1344, 768)),
        ((1080, 1920), "1", 1.0, (736, 1344)),
        ((640, 640), "2", 0.25, (512, 512)),
        ((2000, 100), "2", 0.02, (640, 64)),
    ],
)
def test_a_plan_takes_the_shape_of_an_image(server: Server, size, stages, megapixels, planned):
    g = Graph()
    picture = image(g, 1, *size)
    plan = plan_node(g, stages=stages, image=picture, megapixels=megapixels)
    g.dump("latent", latent=plan[1])
    (report,) = (o["text"][0] for o in server.run(g.prompt).outputs.values() if "text" in o)
    assert "{} x {}, 9 frames".format(*planned) in report


def test_every_input_has_a_tooltip_and_the_help_page_names_all_inputs_and_outputs_in_order(server: Server):
    ours = {name: node for name, node in server.get("/object_info").items() if name.startswith("LTX2AV")}
    assert len(ours) == len(list(DOCS.glob("*.md")))
    for name, node in ours.items():
        assert node["display_name"].startswith("LTX-2 ")
        assert node["category"].startswith("LTX-2/")
        entries = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert all(entry[1].get("tooltip") for entry in entries.values()), name
        inputs, outputs = (DOCS / f"{name}.md").read_text(encoding="utf-8").split("## Outputs")
        rows = re.findall(r"^\| (\w+) \| ([^|]+) \|", inputs, re.MULTILINE)[1:]
        assert [row[0] for row in rows] == list(entries), name
        optional = [row[0] for row in rows if row[1].endswith("optional")]
        assert optional == list(node["input"].get("optional", {})), name
        rows = re.findall(r"^\| (\w+) \|", outputs.split("## Notes")[0], re.MULTILINE)[1:]
        assert rows == node["output_name"], name
