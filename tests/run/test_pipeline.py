"""The whole run on tiny random weights: what is preserved, what is reproduced, what stops it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import av
import numpy as np
import pytest
import torch

from ltx2_core import LTX2Pipeline, Request, Stopped
from ltx2_core.media import load_image, read_metadata
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, DISTILLED_STAGE2_SIGMAS
from ltx2_core.types import AVLatent, Numerics

SMALL = {"width": 128, "height": 64, "num_frames": 17, "fps": 8.0, "steps": 2}


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler, keep_loaded=True
    )


def test_prompt_image_and_audio_become_a_playable_file_with_its_settings(
    pipeline, photo, sound, tmp_path
) -> None:
    out = tmp_path / "clip.mp4"
    pipeline("a ball", image=photo, audio=sound, stages=2, seed=3, **SMALL).save(out)
    with av.open(str(out)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (len(frames), video.width, video.height, video.average_rate) == (17, 128, 64, 8)
        file.seek(0)
        samples = sum(frame.samples for frame in file.decode(audio=0))
        # The audio ends after 2 s, and silence follows up to the end of the video.
        assert 2.125 <= samples / audio.rate < 2.125 + 0.06
    settings = json.loads(read_metadata(out)["ltx2"])
    assert settings["request"]["prompt"] == "a ball"
    assert settings["request"]["seed"] == 3
    assert settings["clip"] == [128, 64, 17, 8.0]
    assert settings["sigmas"][1] == pytest.approx(DISTILLED_STAGE2_SIGMAS.tolist(), abs=1e-6)
    assert list(tmp_path.iterdir()) == [out]


def test_input_image_and_audio_come_back_bit_exact_in_the_latents(pipeline, photo, sound) -> None:
    result = pipeline("a ball", image=photo, audio=sound, image_crf=0, **SMALL)
    from ltx2_core.media import fit_image, read_audio

    image = pipeline.encode_video(fit_image(load_image(photo), 128, 64))
    audio = pipeline.encode_audio(*read_audio(sound), latent_frames=result.clip.audio_latents)
    assert torch.equal(result.latents.video[:, :, :1], image)
    assert torch.equal(result.latents.audio, audio)
    waveform, rate = result.audio()
    assert rate == 22050
    assert torch.equal(waveform, read_audio(sound)[0])


def test_the_same_seed_repeats_and_another_differs(pipeline) -> None:
    first, again, other = (pipeline("a ball", seed=seed, **SMALL) for seed in (5, 5, 6))
    assert torch.equal(first.latents.video, again.latents.video)
    assert torch.equal(first.latents.audio, again.latents.audio)
    assert not torch.allclose(first.latents.video, other.latents.video, atol=0.1)


def test_prompt_and_negative_prompt_matter(pipeline) -> None:
    base = pipeline("a red ball", negative_prompt="dark", seed=1, **SMALL).latents
    for change in ({"prompt": "a blue square"}, {"negative_prompt": "bright"}):
        options = {"prompt": "a red ball", "negative_prompt": "dark", "seed": 1, **SMALL, **change}
        latents = pipeline(**options).latents
        assert not torch.equal(latents.video, base.video)
        assert not torch.equal(latents.audio, base.audio)


def test_without_guidance_the_negative_prompt_is_not_even_encoded(pipeline) -> None:
    seen: list[str] = []
    quick = {name: value for name, value in SMALL.items() if name != "steps"}
    one = pipeline(
        "a ball", distilled=True, negative_prompt="x", on_step=lambda p: seen.append(p.stage), **quick
    )
    two = pipeline("a ball", distilled=True, negative_prompt="y", **quick)
    assert torch.equal(one.latents.video, two.latents.video)
    assert seen.count("stage 1") == len(DISTILLED_SIGMAS)  # its beginning, and each of its 8 steps


def test_loading_network_by_network_gives_the_same_clip(pipeline, tiny_set) -> None:
    lean = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler)
    options = {"stages": 2, "seed": 9, **SMALL}
    a, b = pipeline("a ball", **options), lean("a ball", **options)
    assert torch.equal(a.latents.video, b.latents.video)
    assert torch.equal(a.latents.audio, b.latents.audio)
    assert not lean.networks._held


def test_frames_stream_in_chunks_that_make_up_the_array(pipeline) -> None:
    result = pipeline("a ball", **{**SMALL, "num_frames": 41})
    chunks = list(result.frames())
    assert sum(len(chunk) for chunk in chunks) == 41
    bytes_ = ((torch.cat(chunks) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert np.array_equal(bytes_.permute(0, 2, 3, 1).numpy(), result.array())


@pytest.mark.parametrize("stage", ["stage 1", "stage 2"])
def test_stop_ends_the_run_within_one_step(pipeline, stage) -> None:
    reached: list[int] = []
    asked = count()

    def on_step(progress) -> None:
        if progress.stage == stage:
            reached.append(progress.step)

    with pytest.raises(Stopped):
        pipeline("a ball", stages=2, on_step=on_step, stop=lambda: bool(reached) and next(asked) > 0, **SMALL)
    assert reached == [0]


def test_stopping_while_saving_leaves_nothing(pipeline, tmp_path) -> None:
    result = pipeline("a ball", **SMALL)
    with pytest.raises(Stopped):
        result.save(tmp_path / "clip.mp4", stop=lambda: True)
    assert not list(tmp_path.iterdir())


def test_a_second_stage_continues_from_input_latents(pipeline) -> None:
    half = pipeline("a ball", seed=2, **SMALL)
    latents = pipeline.upsample(half.latents)
    assert latents.video.shape[-2:] == (4, 8)
    assert latents.audio is half.latents.audio
    sigmas = DISTILLED_STAGE2_SIGMAS.tolist()
    result = pipeline("a ball", latents=latents, sigmas=sigmas, cfg=1, fps=8.0)
    assert (result.clip.width, result.clip.height, result.clip.frames) == (256, 128, 17)
    assert not torch.equal(result.latents.video, latents.video)


def test_little_denoising_preserves_more_of_the_input_latents(pipeline) -> None:
    start = pipeline("a ball", seed=2, **SMALL).latents

    def moved(denoise: float) -> float:
        result = pipeline("a square", latents=start, denoise=denoise, steps=4, fps=8.0, seed=4)
        return float((result.latents.video - start.video).square().mean())

    assert moved(0.25) < moved(0.75) < moved(1.0)


def test_guided_two_stage_runs_preserve_the_audio_of_the_first_stage_officially(pipeline, tiny_set) -> None:
    options = {"prompt": "a ball", "seed": 1, "stages": 2, **SMALL}
    assert torch.equal(pipeline(**options).latents.audio, pipeline(**options, audio_stage=1).latents.audio)
    assert not torch.equal(
        pipeline(**options).latents.audio, pipeline(**options, audio_stage=2).latents.audio
    )


def test_generation_20_and_comfy_numerics_run_too(tiny_set_20) -> None:
    files = {"text_encoder": tiny_set_20.text_encoder, "upscaler": tiny_set_20.upsampler}
    results = [
        LTX2Pipeline(tiny_set_20.checkpoint, **files, numerics=numerics)("a ball", stages=2, **SMALL)
        for numerics in Numerics
    ]
    for result in results:
        assert result.latents.video.isfinite().all()
        assert result.array().std() > 1
        assert result.audio()[1] == 24000
    assert not torch.equal(results[0].latents.video, results[1].latents.video)


def test_a_lora_changes_the_clip_and_its_strength_is_in_the_settings(pipeline, tiny_set) -> None:
    files = {"text_encoder": tiny_set.text_encoder, "upscaler": tiny_set.upsampler}
    changed = LTX2Pipeline(tiny_set.checkpoint, **files, loras=[(tiny_set.lora, 0.5)])("a ball", **SMALL)
    assert not torch.equal(changed.latents.video, pipeline("a ball", **SMALL).latents.video)
    assert changed.settings()["loras"] == [[tiny_set.lora.name, 0.5]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"height": -64}, "height=-64"),
        ({"num_frames": 0}, "frames=0"),
        ({"num_frames": 17, "seconds": 2.0}, "both set the length"),
        ({"fps": 0.0}, "fps"),
        ({"cfg": float("nan")}, "cfg"),
        ({"seed": -2}, "seed"),
        ({"sampler": "magic"}, "euler"),
        ({"sigmas": [0.5, 0.7, 0.0], "steps": None}, "fall"),
        ({"steps": 0}, "steps=0"),
        ({"image_strength": 2.0, "image": torch.zeros(3, 64, 64)}, "strength=2.0"),
        ({"denoise": 0.5}, "needs latents"),
    ],
)
def test_what_cannot_be_asked_for_says_so(pipeline, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline("a ball", **{**SMALL, **change})


def test_a_missing_component_is_named_before_anything_runs(tiny_set) -> None:
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder)
    with pytest.raises(ValueError, match="upsampler"):
        pipeline("a ball", stages=2, on_step=lambda p: pytest.fail("it ran"), **SMALL)


def test_audio_latents_of_another_length_are_refused(pipeline) -> None:
    start = pipeline("a ball", **SMALL).latents
    short = replace(start, audio=start.audio[:, :, :10])
    with pytest.raises(ValueError, match="audio"):
        pipeline("a ball", latents=short, fps=8.0, steps=2)


def test_settings_are_plain_json(photo) -> None:
    request = Request(prompt="a ball", image=photo, audio=(torch.zeros(2, 10), 16000), latents=None)
    plain = json.loads(json.dumps(request.settings()))
    assert plain["image"] == str(photo)
    assert "memory" in plain["audio"]
    latents = AVLatent(torch.zeros(1, 128, 1, 2, 2), None)
    assert "memory" in Request(prompt="x", latents=latents).settings()["latents"]


def test_a_file_is_left_alone_when_the_new_one_fails(pipeline, tmp_path) -> None:
    out = tmp_path / "clip.mp4"
    out.write_bytes(b"old")
    result = pipeline("a ball", **SMALL)
    broken = replace(result, input_audio=(torch.full((2, 100), float("nan")), 16000))
    with pytest.raises(ValueError, match="NaN"):
        broken.save(out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
