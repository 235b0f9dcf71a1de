"""A request of ai-toolkit-inference samples what diffusers samples with the same weights, LoRA and seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.loading import Component
from ltx2_core.serve.models import TINY, read_models
from ltx2_core.serve.seed_request import InferenceRequest, job_of

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
if not hasattr(diffusers, "LTX2Pipeline"):
    pytest.skip("this diffusers has no LTX-2", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ITEM = {"prompt": "a red ball bounces", "width": 150, "height": 128, "num_frames": 17, "sample_steps": 4}
PLAIN = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0, "audio_guidance_scale": 4.0}
"""Guidance 4 alone, as in the version of diffusers that made the previews of ai-toolkit."""


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA of random weights with the names that ai-toolkit writes."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    networks = LTX2Pipeline.embedded(device="cpu", dtype=torch.float32).networks
    with networks.use(Component.TRANSFORMER) as network:
        for name, module in network.named_modules():
            if name.endswith(("attn1.to_q", "attn1.to_v", "attn2.to_out.0", "ff.net.2", "audio_attn1.to_k")):
                rows, columns = module.weight.shape
                down = 0.1 * torch.randn(4, columns, generator=generator)
                up = 0.1 * torch.randn(rows, 4, generator=generator)
                tensors[f"diffusion_model.{name}.lora_A.weight"] = down
                tensors[f"diffusion_model.{name}.lora_B.weight"] = up
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The pipeline of diffusers with the weights of the embedded set."""
    folder = tmp_path_factory.mktemp("saved") / "diffusers"
    model = read_models(None)[TINY]
    ours = LTX2Pipeline(
        *model.checkpoints, text_encoder=model.text_encoder, device="cpu", dtype=torch.float32
    )
    ours.save_diffusers(folder)
    parts = {}
    for name, kind in (
        ("vae", diffusers.AutoencoderKLLTX2Video),
        ("audio_vae", diffusers.AutoencoderKLLTX2Audio),
    ):
        part = kind.from_config(json.loads((folder / name / "config.json").read_text()))
        weights = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        if name == "audio_vae":
            # Diffusers gives these the number of base channels, which the tiny set has fewer of.
            for buffer in ("latents_mean", "latents_std"):
                setattr(part, buffer, torch.zeros_like(weights[buffer]))
        # Text becomes a clip without the encoder, whose widths diffusers cannot express.
        weights = {key: one for key, one in weights.items() if not key.startswith("encoder.")}
        found = part.load_state_dict(weights, strict=False)
        assert not found.unexpected_keys
        assert all(key.startswith("encoder.") for key in found.missing_keys)
        parts[name] = part.float().eval()
    text_encoder = transformers.Gemma3ForCausalLM.from_pretrained(model.text_encoder, dtype=torch.float32)
    return diffusers.LTX2Pipeline.from_pretrained(folder, text_encoder=text_encoder, **parts)


@pytest.mark.parametrize(
    ("item", "multiplier"),
    [({}, 1.0), ({"seed": 7, "neg": "blue", "fps": 12}, -0.5), ({"guidance_scale": 1.0}, 0.0)],
    ids=["what is left out", "all is stated", "no guidance"],
)
def test_a_request_gives_the_frames_of_diffusers(theirs, lora, item, multiplier):
    whole = {**ITEM, **item}
    body = InferenceRequest.model_validate({"model": TINY, "loras": [{"path": "x"}], "prompts": [whole]})
    model = read_models(None)[TINY]
    clip = job_of(body, model, (str(lora), multiplier), None).clips[0]
    ours = LTX2Pipeline(
        *model.checkpoints, text_encoder=model.text_encoder, device="cpu", dtype=torch.float32
    )
    ours.set_loras(clip.loras)
    made = ours(clip.whole_request())

    theirs.load_lora_weights(lora, adapter_name="style")
    theirs.set_adapters("style", multiplier)
    guidance = whole.get("guidance_scale", 4.0)
    expected = theirs(
        prompt=whole["prompt"],
        negative_prompt=whole.get("neg", ""),
        width=whole["width"] // 32 * 32,
        height=whole["height"] // 32 * 32,
        num_frames=whole["num_frames"],
        frame_rate=float(whole.get("fps", 24)),
        num_inference_steps=whole["sample_steps"],
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(whole.get("seed", 42)),
        output_type="np",
        **{**PLAIN, "audio_guidance_scale": guidance},
        audio_stg_scale=0.0,
        audio_modality_scale=1.0,
        audio_guidance_rescale=0.0,
    )
    theirs.delete_adapters("style")
    frames = np.round(expected.frames[0] * 255)
    own = made.array().astype(np.float64)
    assert own.shape == frames.shape == (17, 128, 128, 3)
    assert psnr(own, frames) >= 50
    if multiplier:
        # The LoRA changes what both make.
        ours.set_loras(())
        assert psnr(ours(clip.whole_request()).array().astype(np.float64), frames) < 45
    waveform, _ = made.audio()
    other = expected.audio[0].float()
    length = min(waveform.shape[-1], other.shape[-1])
    assert (waveform[..., :length] - other[..., :length]).abs().max() < 2e-3


def psnr(frames: np.ndarray, others: np.ndarray) -> float:
    """The PSNR of the frame that differs most, in dB; frames are from 0 to 255."""
    error = np.square(frames - others).reshape(len(frames), -1).mean(axis=1)
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).min())
