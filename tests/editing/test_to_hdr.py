"""HDR of an SDR clip: which LoRA it takes, what conditions it, and the light of the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.editing import Footage, to_hdr
from ltx2_core.editing.to_hdr import VideoAlone, plan_hdr_of
from ltx2_core.media import VideoWriter, exr, read_metadata
from ltx2_core.media.clip_frames import TwiceFrames
from ltx2_core.media.hdr_space import HDR_SPACES, logc3_decode
from ltx2_core.media.images import pad_image
from ltx2_core.tiny import embedded_set

pytest.importorskip("OpenEXR")


@pytest.fixture(scope="module")
def ic_lora(tiny_set, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hdr") / "hdr.safetensors"
    save_file(load_file(tiny_set.lora), path, {"reference_downscale_factor": "2", "hdr_transform": "true"})
    return path


def pipeline_of(tiny_set, *loras: Path) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint,
        text_encoder=tiny_set.text_encoder,
        upscaler=tiny_set.upsampler,
        loras=loras,
        device="cpu",
        keep_loaded=True,
    )


@pytest.fixture(scope="module")
def pipeline(tiny_set, ic_lora) -> LTX2Pipeline:
    return pipeline_of(tiny_set, ic_lora)


def footage(frames: int = 12) -> Footage:
    drawn = torch.rand(frames, 3, 100, 90, generator=torch.Generator().manual_seed(0))
    return Footage(frames=drawn, fps=8.0, audio=(torch.rand(1, 30000) - 0.5, 16000))


@pytest.mark.slow
def test_the_result_is_the_light_of_the_codes_that_the_lora_generates(pipeline, tmp_path):
    sampled, source = [], footage()
    made = to_hdr(pipeline, "a ball", source, seed=5, on_sampled=sampled.append)
    assert (made.frame_count, made.width, made.height, made.hdr) == (9, 90, 100, "srgb-linear")
    assert sampled[0].latents.audio is None
    assert sampled[0].sigmas[1] == (0.909375, 0.725, 0.0)
    codes = (torch.cat(list(sampled[0].frames()))[..., :100, :90] + 1) / 2
    light = logc3_decode(codes).clamp(min=0)
    # Files are written from codes of ACEScct, on other primaries.
    found = HDR_SPACES["srgb-linear"].of_codes((made.frames() + 1) / 2)
    # Other primaries mix the channels, so that an error is relative to the brightest one.
    scale = 1 + light.amax(dim=1, keepdim=True)
    assert ((found - light).abs() / scale).max() < 1e-3
    waveform, rate = made.audio()
    assert rate == 16000
    assert torch.equal(waveform, source.audio[0][:, : round(9 / 8 * 16000)])
    made.save(tmp_path / "clip.mp4")
    stored = exr.read_exr(sorted((tmp_path / "clip_exr").iterdir())[0])[0]
    assert ((stored - light[0]).abs() / scale[0]).max() < 3e-3


@pytest.mark.slow
def test_high_quality_generates_twice_the_frames_and_keeps_every_second(pipeline):
    sampled, source = [], footage()
    made = to_hdr(pipeline, "a ball", source, seed=5, on_sampled=sampled.append, high_quality=True)
    assert sampled[0].clip.frames == 17
    assert made.frame_count == 9
    codes = (torch.cat(list(sampled[0].frames()))[::2, ..., :100, :90] + 1) / 2
    assert len(codes) == 9
    found = HDR_SPACES["srgb-linear"].of_codes((made.frames() + 1) / 2)
    light = logc3_decode(codes).clamp(min=0)
    scale = 1 + light.amax(dim=1, keepdim=True)
    assert ((found - light).abs() / scale).max() < 1e-3
    assert made.settings["to_hdr"] == {"high_quality": True, "whole_stage2": False}
    assert made.audio()[0].shape[1] == round(9 / 8 * 16000)


@pytest.mark.slow
def test_tiles_differ_from_the_whole_stage_and_repeat(pipeline):
    source = footage()
    made = {}
    for name, whole in (("tiles", False), ("again", False), ("whole", True)):
        sampled = []
        to_hdr(pipeline, "a ball", source, seed=5, on_sampled=sampled.append, whole_stage2=whole)
        made[name] = sampled[0].latents.video
    assert torch.equal(made["tiles"], made["again"])
    assert not torch.equal(made["tiles"], made["whole"])


def test_the_plan_says_tiles_and_frames(pipeline):
    plan = plan_hdr_of(pipeline, footage(), "acescg", high_quality=True)
    assert (plan.clip.frames, plan.frame_count) == (17, 9)
    assert "17 frames are generated, of which every second one is dropped" in plan.describe()
    assert plan.settings["stage2_tiles"] == 2
    assert plan_hdr_of(pipeline, footage(), "acescg", whole_stage2=True).settings["stage2_tiles"] == 1
    _, reference = plan.conditioning(pipeline)
    frames = TwiceFrames(reference.footage.frames)
    expected = reference.footage.frames.repeat_interleave(2, dim=0)[:17]
    assert len(frames) == 17
    assert torch.equal(torch.cat([*frames.split(5)]), expected)
    assert torch.equal(frames[3:8], expected[3:8])


def test_video_alone_has_no_audio_and_the_reference_is_mirrored(pipeline):
    source = footage()
    plan = plan_hdr_of(pipeline, source, "acescg")
    assert (plan.clip.width, plan.clip.height, plan.clip.frames) == (128, 128, 9)
    alone, reference = plan.conditioning(pipeline)
    assert isinstance(alone, VideoAlone)
    frames = reference.footage.frames
    assert torch.equal(frames, pad_image(source.frames[:9], 128, 128, mirrored=True))
    assert torch.equal(frames[:, :, :100, 90:], source.frames[:9, :, :, 51:89].flip(-1))


def test_other_loras_and_other_numbers_of_them_are_refused(tiny_set, ic_lora, tmp_path):
    source = footage()
    for loras, message in (
        ((), "exactly one LoRA, the HDR IC-LoRA, and 0 are named"),
        ((ic_lora, ic_lora), "and 2 are named"),
        ((tiny_set.lora,), "is no HDR IC-LoRA"),
    ):
        with pytest.raises(ValueError, match=message):
            to_hdr(pipeline_of(tiny_set, *loras), "a ball", source)
    unknown = tmp_path / "unknown.safetensors"
    save_file(load_file(tiny_set.lora), unknown, {"hdr_transform": "pq"})
    with pytest.raises(ValueError, match="hdr_transform='pq' in its metadata is unknown"):
        to_hdr(pipeline_of(tiny_set, unknown), "a ball", source)


@pytest.mark.slow
def test_the_command_makes_images_and_a_master_and_repeats_them(ic_lora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = footage()
    with VideoWriter("source.mp4", width=64, height=64, fps=8) as writer:
        writer.write_frames(source.frames[..., :64, :64] * 2 - 1)
    tensors = load_file(embedded_set().distilled)
    save_file(tensors, tmp_path / "hdr.safetensors", {"hdr_transform": "logc3"})

    def ltx2(*words: str) -> None:
        result = CliRunner().invoke(main, ["hdr", *words, "--lora", "hdr.safetensors", "--quiet"])
        assert result.exit_code == 0, result.output

    ltx2("source.mp4", "--prompt", "a ball", "--seed", "5", "--high-quality", "-o", "a.mp4")
    ltx2("--from-file", "a.mp4", "-o", "b/")
    assert read_metadata(tmp_path / "a.mp4")["ltx2"]
    for first, second in zip(sorted(Path("a_exr").iterdir()), sorted(Path("b").iterdir()), strict=True):
        assert torch.equal(exr.read_exr(first), exr.read_exr(second))
