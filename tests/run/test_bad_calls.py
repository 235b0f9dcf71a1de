"""Calls of the library that cannot be met name the argument, before a network is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.inputs import ImageAt, VideoReference
from ltx2_core.loading import LoraSpec
from ltx2_core.run.request import Request
from ltx2_core.types import AVLatent

READERS = ("ltx2_core.storage.reading", "ltx2_core.loading.lora_merge")
SMALL = {"width": 64, "height": 64, "num_frames": 9, "fps": 8, "steps": 1}
NAN = float("nan")
WAVE = torch.zeros(1, 16000)
LATENTS = AVLatent(torch.zeros(2, 128, 2, 2, 2), None)

CALLS: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    # Names of diffusers, and ours.
    ({"num_inference_steps": 4}, TypeError, "num_inference_steps.*steps"),
    ({"guidance_scale": 4.0}, TypeError, "guidance_scale.*cfg"),
    ({"generator": None}, TypeError, "generator.*seed"),
    ({"frame_rate": 24}, TypeError, "frame_rate.*fps"),
    ({"callback_on_step_end": print}, TypeError, "callback_on_step_end.*on_step"),
    ({"output_type": "np"}, TypeError, r"output_type.*array\(\)"),
    ({"num_videos_per_prompt": 2}, TypeError, "num_videos_per_prompt.*seed"),
    ({"negative_prompt_embeds": None}, TypeError, "negative_prompt_embeds.*negative_prompt"),
    ({"prompt_embeds": 1}, TypeError, "prompt_embeds=1 must be what encode_prompt returns"),
    ({"guidance_rescale": 0.7}, TypeError, "guidance_rescale.*rescale="),
    ({"stg_scale": 1.0}, TypeError, "stg_scale.*stg="),
    ({"frames": 9}, TypeError, "frames.*num_frames"),
    ({"conditions": []}, TypeError, "conditions.*images"),
    ({"strength": 0.5}, TypeError, "strength.*image_strength"),
    ({"return_dict": False}, TypeError, "return_dict"),
    ({"attention_kwargs": {}}, TypeError, "attention_kwargs.*loras"),
    ({"widht": 64}, TypeError, "widht.*did you mean width"),
    ({"zzzz": 1}, TypeError, "zzzz.*use one of"),
    # Numbers.
    ({"width": 0}, ValueError, "width=0"),
    ({"width": -64}, ValueError, "width=-64"),
    ({"width": 10**6}, ValueError, "width=1000000"),
    ({"width": 64.0}, TypeError, r"width=64\.0"),
    ({"width": "64"}, TypeError, "width='64'"),
    ({"width": True}, TypeError, "width=True"),
    ({"height": NAN}, TypeError, "height=nan"),
    ({"num_frames": 0}, ValueError, "num_frames=0"),
    ({"num_frames": 10**9}, ValueError, "num_frames=1000000000"),
    ({"num_frames": 9.5}, TypeError, r"num_frames=9\.5"),
    ({"num_frames": None, "seconds": 0}, ValueError, "seconds=0"),
    ({"num_frames": None, "seconds": NAN}, ValueError, "seconds=nan"),
    ({"num_frames": None, "seconds": "2"}, TypeError, "seconds='2'"),
    ({"fps": 0}, ValueError, "fps=0"),
    ({"fps": 1e-9}, ValueError, "fps=1e-09"),
    ({"fps": float("inf")}, ValueError, "fps=inf"),
    ({"steps": 1.5}, TypeError, r"steps=1\.5"),
    ({"steps": 0}, ValueError, "steps=0"),
    ({"steps": 10**9}, ValueError, "steps=1000000000"),
    ({"steps": [4]}, TypeError, r"steps=\[4\]"),
    ({"stages": 3}, ValueError, "stages=3"),
    ({"stages": "two"}, TypeError, "stages='two'"),
    ({"audio_stage": 5}, ValueError, "audio_stage=5"),
    ({"audio_stage": "first"}, ValueError, "audio_stage='first'"),
    ({"seed": -2}, ValueError, "seed=-2"),
    ({"seed": 2**64}, ValueError, "seed=18446744073709551616"),
    ({"seed": 1.5}, TypeError, r"seed=1\.5"),
    ({"seed": torch.Generator()}, TypeError, "seed="),
    ({"cfg": -1}, ValueError, "cfg=-1"),
    ({"cfg": NAN}, ValueError, "cfg=nan"),
    ({"cfg": "3"}, TypeError, "cfg='3'"),
    ({"audio_cfg": float("inf")}, ValueError, "audio_cfg=inf"),
    ({"eta": 2, "sampler": "euler_ancestral"}, ValueError, "eta=2"),
    ({"denoise": 0.5}, ValueError, r"denoise=0\.5 needs latents"),
    ({"denoise": 2}, ValueError, "denoise=2"),
    ({"video": 1}, TypeError, "video=1"),
    ({"distilled": 1, "steps": None}, TypeError, "distilled=1"),
    # Choices, schedules and parts.
    ({"snap": "sideways"}, ValueError, "snap='sideways'"),
    ({"snap": "error", "width": 65}, ValueError, "width=65"),
    ({"snap": 1}, TypeError, "snap=1"),
    ({"sampler": "magic"}, ValueError, "sampler='magic'"),
    ({"sampler": 3}, TypeError, "sampler=3"),
    ({"noise_device": "gpu"}, ValueError, "noise_device: device 'gpu'"),
    ({"noise_device": 0}, TypeError, "noise_device=0"),
    ({"sigmas": "1, 0", "steps": None}, TypeError, "sigmas='1, 0'"),
    ({"sigmas": [1, "x"], "steps": None}, TypeError, "sigmas="),
    ({"sigmas": 1.0, "steps": None}, TypeError, "sigmas="),
    ({"sigmas": [0, 1], "steps": None}, ValueError, "sigmas"),
    ({"sigmas": [1, NAN, 0], "steps": None}, ValueError, "sigma nan"),
    ({"guidance": 3.0}, TypeError, r"guidance=3\.0 must be a Guidance"),
    ({"nag": 11}, TypeError, "nag=11 must be a Nag"),
    ({"cache": "first_block:0.1"}, TypeError, "cache='first_block:0.1' must be a StepCache"),
    ({"tiles": "2x1"}, TypeError, "tiles='2x1' must be a Tiles"),
    ({"prompt": 3}, ValueError, "prompt must be text"),
    ({"prompt": ["a", "b"]}, ValueError, "prompt must be text"),
    ({"prompt": "a \udc80"}, ValueError, "prompt: character 3"),
    ({"negative_prompt": ["a"]}, TypeError, "negative_prompt="),
    ({"negative_prompt": "\ud800"}, ValueError, "negative_prompt: character 1"),
    # Inputs.
    ({"image": ["a.png", "b.png"]}, TypeError, "image must be one image.*ImageAt"),
    ({"image": 3}, TypeError, "image must be one image"),
    ({"image": b"png"}, TypeError, "image must be one image"),
    ({"image": "no/such.png"}, FileNotFoundError, "image: .*no/such.png"),
    ({"image": "a\0b.png"}, ValueError, "image="),
    ({"image": ""}, ValueError, "image="),
    ({"image": np.zeros((4, 4, 3, 2))}, ValueError, "image: .*axes"),
    ({"image": np.full((4, 4, 3), 255.0)}, ValueError, "image: .*255"),
    ({"image": torch.zeros(5, 4, 4)}, ValueError, "image: .*channels"),
    ({"image": torch.full((3, 4, 4), NAN)}, ValueError, "image: "),
    ({"image": torch.zeros(3, 4, 4), "image_strength": 2}, ValueError, "image_strength=2"),
    ({"image": torch.zeros(3, 4, 4), "image_crf": 99}, ValueError, "image_crf=99"),
    ({"images": "a.png"}, TypeError, "images must be a list of ImageAt"),
    ({"images": ["a.png"]}, TypeError, r"images holds str: write ImageAt\("),
    ({"images": ImageAt(source="a.png")}, TypeError, "images must be a list"),
    ({"images": [ImageAt(source="no/such.png")]}, FileNotFoundError, "images: .*no/such.png"),
    ({"images": [ImageAt(source=torch.zeros(3, 4, 4), frame=9)]}, ValueError, "images: .*frame 9"),
    ({"images": [ImageAt(source=torch.zeros(3, 4, 4), frame=-10)]}, ValueError, "images: .*frame -10"),
    ({"references": "depth.mp4"}, TypeError, "references must be a list of VideoReference"),
    ({"references": [VideoReference(source="no/such.mp4")]}, FileNotFoundError, "references: .*no/such"),
    ({"references": [VideoReference(source=torch.zeros(3, 3, 4, 4))]}, ValueError, "has 3 frames"),
    ({"references": [VideoReference(source=torch.zeros(9, 4, 4, 3))]}, ValueError, "references: frames"),
    ({"audio": WAVE}, TypeError, "audio must be a path, or"),
    ({"audio": (WAVE.T, 16000)}, ValueError, "audio: .*transposed"),
    ({"audio": (WAVE[0], 16000)}, ValueError, r"audio: .*\(16000,\)"),
    ({"audio": (WAVE[:, :0], 16000)}, ValueError, "audio: "),
    ({"audio": (WAVE * NAN, 16000)}, ValueError, "audio: .*NaN"),
    ({"audio": (np.zeros((16000, 2)), 16000)}, ValueError, "audio: .*transposed"),
    ({"audio": (WAVE.to(torch.int16), 16000)}, TypeError, "audio: .*int16"),
    ({"audio": (WAVE, 0)}, ValueError, "audio: the sample rate 0"),
    ({"audio": (WAVE, 16000.5)}, ValueError, "audio: the sample rate"),
    ({"audio": (16000, WAVE)}, TypeError, "audio: the waveform"),
    ({"audio": "no/such.wav"}, FileNotFoundError, "audio: .*no/such.wav"),
    ({"audio": (WAVE, 16000), "audio_start_s": -1}, ValueError, "audio_start_s=-1"),
    ({"audio": (WAVE, 16000), "audio_start_s": 5}, ValueError, "audio: .*5"),
    ({"reference_audio": (WAVE.T, 16000)}, ValueError, "reference_audio: .*transposed"),
    ({"reference_audio": "no/such.wav"}, FileNotFoundError, "reference_audio: "),
    ({"reference_audio": (WAVE, 16000), "identity": -5}, ValueError, "identity=-5"),
    ({"reference_audio": (WAVE, 16000), "reference_s": 0}, ValueError, "reference_s=0"),
    ({"latents": torch.zeros(1, 16, 2, 2, 2)}, ValueError, "latents: the video latent"),
    ({"latents": LATENTS}, ValueError, "latents: the video latent.*one clip a call"),
    ({"latents": AVLatent(torch.zeros(1, 16, 2, 2, 2), None)}, ValueError, "latents: the video latent"),
    ({"latents": AVLatent(None, torch.zeros(1, 8, 9, 15))}, ValueError, "latents: the audio latent"),
    ({"latents": AVLatent(torch.full((1, 128, 2, 2, 2), NAN), None)}, ValueError, "latents: .*NaN"),
    ({"source_clip": "clip.mp4"}, TypeError, "source_clip='clip.mp4'"),
)

PIPELINES: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (lambda: LTX2Pipeline.embedded(device="gpu"), ValueError, "device 'gpu'"),
    (lambda: LTX2Pipeline.embedded(device="cuda:7"), ValueError, "cuda:7"),
    (lambda: LTX2Pipeline.embedded(device="meta"), ValueError, "'meta'"),
    (lambda: LTX2Pipeline.embedded(device=torch.device("mps")), ValueError, "'mps'"),
    (lambda: LTX2Pipeline.embedded(dtype="bfloat16"), TypeError, "dtype='bfloat16'"),
    (lambda: LTX2Pipeline.embedded(dtype=torch.int8), TypeError, "dtype=torch.int8"),
    (lambda: LTX2Pipeline.embedded(max_memory="lots"), ValueError, "lots"),
    (lambda: LTX2Pipeline.embedded(max_memory=0), ValueError, "budget"),
    (lambda: LTX2Pipeline.embedded(max_memory=1.5), TypeError, r"max_memory=1\.5"),
    (lambda: LTX2Pipeline.embedded(passes_per_call=0), ValueError, "passes_per_call=0"),
    (lambda: LTX2Pipeline.embedded(passes_per_call=1.5), TypeError, r"passes_per_call=1\.5"),
    (lambda: LTX2Pipeline.embedded(keep_loaded="yes"), TypeError, "keep_loaded='yes'"),
    (lambda: LTX2Pipeline.embedded(fused=1), TypeError, "fused=1"),
    (lambda: LTX2Pipeline.embedded(torch_dtype=torch.float32), TypeError, "torch_dtype"),
    (lambda: LTX2Pipeline.embedded(loras=["no/such.safetensors"]), FileNotFoundError, "no/such"),
    (lambda: LoraSpec(path="a.safetensors", strength=NAN), ValueError, "strength nan"),
    (lambda: LTX2Pipeline("no/such.safetensors"), FileNotFoundError, "no/such"),
    (lambda: LTX2Pipeline(), ValueError, "checkpoint"),
    (lambda: ImageAt(source="a.png", frame=1.5), TypeError, r"frame=1\.5"),
    (lambda: ImageAt(source="a.png", strength=NAN), ValueError, "strength=nan"),
    (lambda: ImageAt(source="a.png", crf=99), ValueError, "crf=99"),
    (lambda: VideoReference(source="a.mp4", strength=-1), ValueError, "strength=-1"),
    (lambda: VideoReference(source="a.mp4", scale=0), ValueError, "scale=0"),
    (lambda: Request(), TypeError, "prompt"),
    (lambda: Request.from_settings([]), ValueError, "settings must be an object .*; got list"),
    (lambda: LTX2Pipeline.embedded().check("a ball"), TypeError, "check takes a Request.*got str"),
    (lambda: LTX2Pipeline.embedded().set_loras(3), TypeError, "loras must be a list of files"),
    (lambda: LTX2Pipeline.embedded().set_loras("a.safetensors"), TypeError, "loras must be a list of files"),
    (lambda: LTX2Pipeline.embedded()("a ball", conditioning=3), TypeError, "conditioning=3 must be a list"),
    (lambda: LTX2Pipeline.embedded().encode_video("clip.mp4"), TypeError, "frames .*'clip.mp4'"),
    (lambda: LTX2Pipeline.embedded().encode_video(torch.zeros(4, 3, 64, 64)), ValueError, "8k \\+ 1"),
    (lambda: LTX2Pipeline.embedded().encode_video(torch.zeros(9, 3, 60, 64)), ValueError, "32"),
    (lambda: Request("a ball"), TypeError, "positional"),  # type: ignore[misc]
)


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32)


@pytest.fixture(autouse=True)
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the weights of a model file fails the test; headers may be read."""

    def read(path: Any, *arguments: Any, **options: Any) -> None:
        pytest.fail(f"the weights in {path} were read")

    for module in READERS:
        monkeypatch.setattr(importlib.import_module(module), "safe_open", read)


@pytest.mark.parametrize(
    ("options", "kind", "words"), CALLS, ids=[f"{next(iter(c[0]))} {c[2]}" for c in CALLS]
)
def test_a_call_that_cannot_be_met_names_the_argument(options, kind, words, pipeline) -> None:
    with pytest.raises(kind, match=words) as error:
        pipeline(
            options.get("prompt", "a ball"), **SMALL | {k: v for k, v in options.items() if k != "prompt"}
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("call", "kind", "words"), PIPELINES, ids=[row[2] for row in PIPELINES])
def test_a_pipeline_that_cannot_be_made_names_the_argument(call, kind, words) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_a_call_that_can_be_met_reads_weights(pipeline) -> None:
    """Without this, a guard that watches nothing would pass every row."""
    with pytest.raises(pytest.fail.Exception, match="were read"):
        pipeline("a ball", **SMALL)


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"seed": np.int64(3)}, {"seed": 3}),
        ({"steps": np.int32(1), "cfg": np.float32(2.5)}, {"steps": 1, "cfg": 2.5}),
        ({"width": np.int64(64), "fps": np.float64(8)}, {"width": 64, "fps": 8.0}),
        ({"snap": "ceil"}, {"snap": Request(prompt="", snap="ceil").snap}),
        ({"sigmas": np.array([1.0, 0.5, 0.0])}, {"sigmas": (1.0, 0.5, 0.0)}),
    ],
)
def test_numbers_of_numpy_and_names_of_choices_are_fine(options, plain) -> None:
    request = Request(prompt="a ball", **options)
    assert {name: getattr(request, name) for name in plain} == plain
    assert Request.from_settings(request.settings()) == request


def test_audio_of_numpy_is_fine() -> None:
    wave = np.linspace(-1, 1, 2000, dtype=np.float64).reshape(2, 1000)
    waveform, rate = Request(prompt="a ball", audio=(wave, np.int64(16000))).audio
    assert torch.equal(waveform, torch.from_numpy(wave).float())
    assert type(rate) is int


def test_a_budget_may_be_text() -> None:
    assert LTX2Pipeline.embedded(device="cpu", max_memory="12GB").execution.max_memory == 12 * 10**9
