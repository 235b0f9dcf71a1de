"""LTX-Video against reference results: the transformer, with and without skipped attention."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx2_core.config import video_vae_config
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.text.t5 import T5Encoder, find_t5, t5_network
from ltx2_core.transformer import Modality, Perturbation, Perturbations, Runner
from ltx2_core.video_vae import NoisyDecoding, VideoVAE
from ltx2_core.video_vae.streaming import Stream, run_stages

sys.path.insert(0, str(Path(__file__).parent))

from test_video_vae import wave

DIT_TOLERANCE = 1e-5


def case_of(golden):
    return golden.metadata["case"]


def model_file(golden):
    return golden.model(case_of(golden)["model"].split("+")[0])


def as_spans(starts: Tensor) -> Tensor:
    """Positions with the end of each interval, which this family does not read."""
    return torch.stack((starts, starts + 1), dim=-1)


def video_of(tensors) -> Modality:
    return Modality(
        tokens=tensors["in/tokens"],
        timesteps=tensors["in/timesteps"],
        sigma=tensors["in/sigma"],
        positions=as_spans(tensors["in/positions"]),
        context=tensors["in/context"],
        context_mask=tensors["in/context_mask"].long(),
    )


def plain(model):
    return model


def chunked(model):
    return Runner(model, chunk_tokens=5)


@pytest.mark.golden("ltxv_dit")
@pytest.mark.parametrize("mode", [plain, chunked])
def test_velocities_of_the_video_transformer_match(golden, mode):
    tensors = golden.tensors()
    network = open_checkpoint(model_file(golden)).load(Component.TRANSFORMER, dtype=torch.float32)
    video, blocks = video_of(tensors), tuple(case_of(golden).get("stg_blocks", ()))
    skipping = Perturbations((Perturbation(video_self_attention=blocks),) * len(video.tokens))
    runs = {"out/velocity": None, "out/stg_attention_values": skipping}
    checked = set()
    with torch.inference_mode():
        for name, perturbations in runs.items():
            if name in tensors:
                velocity, _ = mode(network)(video, None, perturbations)
                torch.testing.assert_close(velocity, tensors[name], rtol=0, atol=DIT_TOLERANCE)
                checked.add(name)
    # The other two ways to skip attention, which no recipe uses, are not offered.
    unused = {"out/stg_attention_skip", "out/stg_transformer_block"}
    assert checked == {name for name in tensors if name.startswith("out/")} - unused


VAE_TOLERANCE = {"atol": 2e-4, "rtol": 0}
ONE_FRAME = 1
"""A piece limit in bytes below any frame, so that pieces are single frames."""


@dataclass(frozen=True)
class StoredNoise:
    """The planes of a fixture, in the order in which the reference drew them."""

    stored: tuple[Tensor, ...]

    def planes(self, sizes, like):
        assert [tuple(plane.shape) for plane in self.stored] == list(sizes)
        return self.stored


def vae_of(golden, **padding):
    checkpoint = open_checkpoint(model_file(golden))
    section = {**checkpoint.config["vae"], **padding}
    vae = VideoVAE(video_vae_config({"vae": section}), device="meta")
    state = {}
    for component in (Component.VIDEO_ENCODER, Component.VIDEO_DECODER):
        state.update(checkpoint.load(component, dtype=torch.float32).state_dict())
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.requires_grad_(False)


@pytest.mark.golden("ltxv_vae")
@pytest.mark.parametrize("limit", [ONE_FRAME, 2**30])
def test_encodes_like_the_reference(golden, limit):
    vae, tensors = vae_of(golden), golden.tensors()
    for tag, clip in case_of(golden)["encode_inputs"].items():
        frames, stages = wave(clip["shape"], clip["seed"]), vae.encoder.stages()
        moments = torch.cat([*run_stages(stages, frames, Stream(causal=True), True, limit)], dim=2)
        torch.testing.assert_close(moments[:, -1:], tensors[f"golden.encode.{tag}.logvar"], **VAE_TOLERANCE)
        latent = vae.encode(frames, max_piece_bytes=limit)
        torch.testing.assert_close(latent, tensors[f"golden.encode.{tag}.latent"], **VAE_TOLERANCE)


@pytest.mark.golden("ltxv_vae")
@pytest.mark.parametrize("limit", [ONE_FRAME, 2**30])
@pytest.mark.parametrize(("kind", "padding"), [("video", "zeros"), ("video_reflect", "reflect")])
def test_decodes_like_the_reference(golden, kind, padding, limit):
    vae, tensors = (
        vae_of(golden, spatial_padding_mode=padding, encoder_spatial_padding_mode="zeros"),
        golden.tensors(),
    )
    tags = {name.split(".")[2] for name in tensors if name.startswith("golden.decode.")}
    assert tags
    for tag in tags:
        planes = sorted(name for name in tensors if name.startswith(f"golden.decode.{tag}.noise."))
        noise = StoredNoise(tuple(tensors[name] for name in planes))
        vae.noisy = NoisyDecoding(case_of(golden)["decode_timestep"], 0.0, noise)
        frames = vae.decode(tensors[f"golden.decode.{tag}.latent"], max_piece_bytes=limit)
        expected = tensors[f"golden.decode.{tag}.{kind}_sub3"]
        torch.testing.assert_close(frames[..., ::3, ::3], expected, **VAE_TOLERANCE)


@pytest.mark.golden("t5")
def test_text_states_match(golden):
    _, infos, metadata = find_t5(golden.path)
    settings = find_t5(golden.path)[0]
    model = t5_network(settings, infos, metadata, torch.float32, torch.device("cpu"))
    tensors = golden.tensors()
    mask = tensors["in/mask"]
    with torch.inference_mode():
        states = T5Encoder(model, None).states(tensors["in/ids"], mask)
    valid = mask.bool()
    torch.testing.assert_close(states[valid], tensors["out/states"][valid], rtol=0, atol=1e-5)
