"""Whole runs of LTX-Video from a folder that diffusers has saved, against the pipelines of diffusers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from einops import rearrange
from PIL import Image

from ltx2_core import LTX2Pipeline
from ltx2_core.run import stage_sampler
from ltx2_core.sampling.guidance import Guidance, StreamGuidance
from ltx2_core.text.tiny_t5 import write_tiny_t5
from ltx2_core.types import AVLatent

sys.path.insert(0, str(Path(__file__).parents[1] / "loading"))

from test_diffusers_ltxv import SMALL, VAES

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "LTXConditionPipeline"):
    pytest.skip("this diffusers has no LTX-Video", allow_module_level=True)

TEXT_WIDTH, LENGTH, STEPS = 64, 32, 4
PROMPT, NEGATIVE = "a red ball rolls", "blurry"
SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}


@pytest.fixture(scope="module", params=["A", "C"])
def saved(request, tmp_path_factory):
    """(Kind of VAE, a folder with a tiny pipeline, and that pipeline of diffusers)."""
    folder, kind = tmp_path_factory.mktemp("saved"), request.param
    torch.manual_seed(1)
    # As released folders state it; by default it is computed from the number of blocks.
    scale = {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    vae = diffusers.AutoencoderKLLTXVideo(
        **SMALL, **VAES[kind], **scale, encoder_causal=True, decoder_causal=False
    )
    heads = {"num_attention_heads": 4, "attention_head_dim": 16, "cross_attention_dim": 64, "num_layers": 2}
    transformer = diffusers.LTXVideoTransformer3DModel(**heads, caption_channels=TEXT_WIDTH)
    vae.save_pretrained(folder / "vae")
    transformer.save_pretrained(folder / "transformer")
    write_tiny_t5(folder / "text_encoder", dtype=torch.float32)
    (folder / "tokenizer").mkdir()
    (folder / "text_encoder" / "tokenizer.json").rename(folder / "tokenizer" / "tokenizer.json")
    old = kind == "A"
    name = "LTXPipeline" if old else "LTXConditionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**(SCHEDULER if old else {}))
    made = getattr(diffusers, name)(
        scheduler=scheduler, vae=vae.eval(), text_encoder=None, tokenizer=None, transformer=transformer.eval()
    )
    made.set_progress_bar_config(disable=True)
    return kind, folder, made


def states(pipeline: LTX2Pipeline, folder: Path, text: str):
    """States and mask of a prompt, by the encoder of transformers on our tokens."""
    from transformers import T5EncoderModel

    with pipeline.networks.use_t5() as encoder:
        found = encoder.tokenizer(text)
    # The pipelines pad on the right, to one length for both prompts.
    ids, mask = torch.zeros(1, LENGTH, dtype=torch.int64), torch.zeros(1, LENGTH, dtype=torch.int64)
    ids[0, : len(found)], mask[0, : len(found)] = torch.tensor(found), 1
    theirs = T5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    return theirs(ids, attention_mask=mask).last_hidden_state, mask


def runs(ours: LTX2Pipeline, theirs, folder: Path, of_theirs: dict, of_ours: dict):
    """The latents of both sides, from the same noise, prompts and settings."""
    noise = torch.randn(1, 128, 3, 2, 3, generator=torch.Generator().manual_seed(2))
    (positive, mask), (negative, negative_mask) = (states(ours, folder, text) for text in (PROMPT, NEGATIVE))
    size = {"width": 96, "height": 64, "num_frames": 17}
    expected = theirs(
        prompt_embeds=positive,
        prompt_attention_mask=mask,
        negative_prompt_embeds=negative,
        negative_prompt_attention_mask=negative_mask,
        generator=torch.Generator().manual_seed(2),
        frame_rate=25,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        output_type="latent",
        **size,
        **of_theirs,
    ).frames
    if expected.ndim == 3:
        expected = rearrange(expected, "b (f h w) c -> b c f h w", f=3, h=2)
    clip = ours(
        PROMPT,
        negative_prompt=NEGATIVE,
        noise=AVLatent(noise, None),
        fps=25,
        steps=STEPS,
        guidance=Guidance(video=StreamGuidance(cfg=3.0)),
        **size,
        **of_ours,
    )
    return expected, clip.latents.video


def distance(expected: torch.Tensor, made: torch.Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@torch.inference_mode()
def test_a_run_ends_in_the_latents_of_diffusers(saved):
    _, folder, theirs = saved
    ours = LTX2Pipeline(folder, device="cpu", dtype=torch.float32)
    assert distance(*runs(ours, theirs, folder, {}, {})) < 1e-4


@torch.inference_mode()
def test_images_and_keyframes_are_those_of_diffusers(saved, monkeypatch):
    kind, folder, theirs = saved
    if kind != "C":
        pytest.skip("images at any frame need 0.9.5 or later")
    ours = LTX2Pipeline(folder, device="cpu", dtype=torch.float32)
    pixels = torch.randint(0, 256, (2, 64, 96, 3), generator=torch.Generator().manual_seed(4)).byte()
    first, later = (Image.fromarray(one.numpy()) for one in pixels)
    condition = diffusers.pipelines.ltx.pipeline_ltx_condition.LTXVideoCondition
    given = [condition(image=first, strength=0.8), condition(image=later, frame_index=16)]
    # It draws a sample of the posterior, and noise on preserved tokens in each step.
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mode())
    monkeypatch.setattr(stage_sampler, "ImageNoise", lambda scale, draw: None)
    images = {"image": first, "image_strength": 0.8, "images": [(later, 16)], "image_crf": 0}
    theirs_given = {"conditions": given, "image_cond_noise_scale": 0.0}
    expected, made = runs(ours, theirs, folder, theirs_given, images)
    assert distance(expected, made) < 1e-4
    plain, _ = runs(ours, theirs, folder, {}, {})
    assert distance(plain, made) > 1e-2


@torch.inference_mode()
def test_the_first_frame_of_the_oldest_models_is_that_of_diffusers(saved, monkeypatch):
    kind, folder, theirs = saved
    if kind != "A":
        pytest.skip("later models have another pipeline")
    parts = {"text_encoder": None, "tokenizer": None}
    of_image = diffusers.LTXImageToVideoPipeline(
        scheduler=theirs.scheduler, vae=theirs.vae, transformer=theirs.transformer, **parts
    )
    of_image.set_progress_bar_config(disable=True)
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mode())
    ours = LTX2Pipeline(folder, device="cpu", dtype=torch.float32)
    pixels = torch.randint(0, 256, (64, 96, 3), generator=torch.Generator().manual_seed(4)).byte()
    image = Image.fromarray(pixels.numpy())
    expected, made = runs(ours, of_image, folder, {"image": image}, {"image": image, "image_crf": 0})
    assert distance(expected, made) < 1e-4
