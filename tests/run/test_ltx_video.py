"""LTX-Video from its files to a clip: text, image, keyframe, two stages, edits, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.cli.main import main
from ltx2_core.loading import open_checkpoint
from ltx2_core.loading.describe import describe
from ltx2_core.loading.file_report import as_text
from ltx2_core.loading.file_set import check_set
from ltx2_core.run.recipes import ltxv_generation, recipe_for
from ltx2_core.text.tiny_t5 import write_tiny_t5
from ltx2_core.tiny import embedded_set
from ltx2_core.tiny.write import write_tiny_set
from ltx2_core.types import AVLatent

SMALL = {"width": 64, "height": 64, "num_frames": 17, "steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_tiny_set(tmp_path_factory.mktemp("ltxv"), generation="ltxv-2b", dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(files):
    return LTX2Pipeline(
        files.checkpoint,
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        keep_loaded=True,
        device="cpu",
    )


def test_the_report_names_the_family(files):
    report = describe(files.checkpoint)
    assert (report["generation"], report["kind"]) == ("0.9", "checkpoint")
    assert "LTX-Video" in as_text(report)
    assert not any(part["problem"] for part in report["components"])
    assert "LTX-Video" in as_text(describe(files.text_encoder))


def test_files_of_both_families_do_not_mix(files):
    with pytest.raises(ValueError, match="LTX-Video"):
        check_set([open_checkpoint(files.checkpoint), open_checkpoint(embedded_set().checkpoint)])
    with pytest.raises(ValueError, match="was trained with T5"):
        LTX2Pipeline(files.checkpoint, text_encoder=embedded_set().text_encoder).networks.check_text_encoder()


def test_a_tokenizer_removed_from_beside_a_file_is_missed_at_once(files, tmp_path):
    encoder, tokenizer = tmp_path / "t5.safetensors", tmp_path / "tokenizer.json"
    write_tiny_t5(tmp_path / "made", dtype=torch.float32)
    (tmp_path / "made" / "model.safetensors").rename(encoder)
    (tmp_path / "made" / tokenizer.name).rename(tokenizer)
    networks = LTX2Pipeline(files.checkpoint, text_encoder=encoder, device="cpu").networks
    networks.check_text_encoder()
    tokenizer.unlink()
    with pytest.raises(ValueError, match="needs T5's tokenizer"):
        networks.check_text_encoder()


def test_a_clip_without_audio_has_no_track(pipeline):
    clip = pipeline("A red ball.", **SMALL)
    assert clip.latents.audio is None
    assert clip.array().shape == (17, 64, 64, 3)
    assert clip.as_clip().audio is None


def test_input_audio_becomes_the_track(pipeline):
    waveform = torch.randn(2, 8000)
    clip = pipeline("A red ball.", audio=(waveform, 16000), **SMALL)
    assert clip.latents.audio is None
    assert torch.equal(clip.audio()[0], waveform[:, : clip.audio()[0].shape[1]])


def test_an_image_and_a_keyframe_change_the_clip(pipeline):
    image = torch.rand(3, 64, 64)
    plain = pipeline("A red ball.", **SMALL).latents.video
    first = pipeline("A red ball.", image=image, image_crf=0, **SMALL).latents.video
    last = pipeline("A red ball.", images=[(image, -1)], image_crf=0, **SMALL).latents.video
    assert plain.shape == first.shape == last.shape
    assert not torch.equal(plain, first)
    assert not torch.equal(plain, last)


def test_two_stages_double_the_size(pipeline):
    clip = pipeline("A red ball.", stages=2, **{**SMALL, "width": 128, "height": 128})
    assert clip.latents.video.shape == (1, 128, 3, 4, 4)
    assert len(clip.sigmas) == 2


@pytest.mark.parametrize("options", [{"video": False}, {"seconds": "auto", "num_frames": None}])
def test_what_needs_audio_is_refused(pipeline, options):
    with pytest.raises(ValueError, match="LTX-Video"):
        pipeline.check(pipeline_request({**SMALL, **options}))


def pipeline_request(options):
    return Request(prompt="A red ball.", **{k: v for k, v in options.items() if v is not None})


def test_noise_of_decoding_follows_its_seed(files):
    def frames(seed):
        made = LTX2Pipeline(
            files.checkpoint, text_encoder=files.text_encoder, decoder_seed=seed, device="cpu"
        )
        return made("A red ball.", **SMALL).array()

    one, same, other = frames(1), frames(1), frames(2)
    assert (one == same).all()
    assert (one != other).any()


def test_decoding_in_pieces_equals_decoding_at_once(pipeline):
    latent = torch.randn(1, 128, 5, 2, 2)
    whole = torch.cat([*pipeline.decode_video(latent)])
    pieces = torch.cat([*pipeline.decode_video(iter(latent.split(2, dim=2)))])
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize(
    ("layers", "causal", "distilled", "steps", "stages"),
    [(28, False, False, 40, 1), (28, True, False, 40, 1), (28, True, True, 8, 2), (48, True, False, 30, 2)],
)
def test_the_recipe_follows_the_version(layers, causal, distilled, steps, stages):
    recipe = recipe_for(ltxv_generation(layers=layers, causal=causal, distilled=distilled))
    assert (recipe.steps, recipe.stages) == (steps, stages)
    assert (recipe.schedule == "ltxv") == (not causal)


def test_memory_is_planned_from_headers(pipeline):
    request = pipeline.resolve(pipeline_request(SMALL))
    plan = pipeline.plan(pipeline.stages(request), 10**9)
    assert plan.fits
    assert not any(stage.stage == "audio" for stage in plan.stages)


def test_the_random_lora_fits(files):
    made = LTX2Pipeline(
        files.checkpoint, text_encoder=files.text_encoder, loras=[(files.lora, 1.0)], device="cpu"
    )
    (report,) = made.lora_reports()
    report.require_match()
    assert "8 of 8 layers" in str(report)


def test_noise_and_latents_of_the_user_are_of_the_video_alone(pipeline):
    noise = torch.randn(1, 128, 3, 2, 2, generator=torch.Generator().manual_seed(7))
    made = [
        pipeline("A red ball.", noise=AVLatent(noise, None), **{**SMALL, "seed": seed}) for seed in (1, 2)
    ]
    assert torch.equal(*(clip.latents.video for clip in made))
    with pytest.raises(ValueError, match="noise of the audio"):
        pipeline("A red ball.", noise=AVLatent(noise, torch.randn(1, 8, 17, 16)), **SMALL)
    # Video to video: the less of the schedule is sampled, the more is preserved.
    start = made[0].latents
    changed = [
        (
            pipeline("A cube.", latents=start, denoise=share, **{**SMALL, "steps": 10}).latents.video
            - start.video
        )
        for share in (0.2, 1.0)
    ]
    assert 0 < changed[0].norm() < changed[1].norm()


def test_the_frame_rate_of_a_video_is_doubled_by_its_temporal_upscaler(files, temporal, tmp_path):
    from ltx2_core.media import read_video

    clip, twice = tmp_path / "clip.mp4", tmp_path / "twice.mp4"
    made = LTX2Pipeline(files.checkpoint, text_encoder=files.text_encoder, device="cpu")
    made("A red ball.", **SMALL).save(clip)
    words = ["--video", clip, "--checkpoint", files.checkpoint, "--temporal-upscaler", temporal, "-o", twice]
    result = CliRunner().invoke(main, ["interpolate", *map(str, words), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert read_video(twice).frame_count == 33


def test_fp8_files_that_are_reported_to_make_noise_are_named(files, tmp_path, caplog):
    for name, warned in (("ltxv-13b-0.9.8-dev-fp8", False), ("ltxv-13b-0.9.7-dev-fp8", True)):
        path = tmp_path / f"{name}.safetensors"
        path.symlink_to(files.checkpoint)
        LTX2Pipeline(path, device="cpu")
        assert ("use bf16" in caplog.text) == warned
