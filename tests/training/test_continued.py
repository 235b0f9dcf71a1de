"""LTX-2.5 continues a trained LTX-2.3: what the new network lacks or reads in another way is fitted first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx2_core.conditioning.masks import mask_like
from ltx2_core.conditioning.slots import KeyframeSlots, generated_keyframes
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.tiny.settings import tiny_config
from ltx2_core.training.continued import (
    absorb_biases,
    freeze_but_video,
    is_changed,
    refit_projection,
    start_continued,
)
from ltx2_core.training.flow import draw_flow, flow_loss, masked_error, noised, predict
from ltx2_core.training.network import FlowNetwork
from ltx2_core.training.tasks import FlowOptions, Keyframes, Task, draw_keyframes
from ltx2_core.training.text import batch_text, encode_captions, load_text
from ltx2_core.training.tiny.gemma import GEMMA_LAYERS, GEMMA_WIDTH, write_world_gemma4
from ltx2_core.types import LatentState

PLAIN = FlowOptions(unconditional=0, first_frame=0, input_audio=0, input_video=0, region=0, guides=0)
CAPTIONS = [
    "a red circle bounces on a blue background, a knock at each bounce",
    "A green square slides left at the top; silence.",
    "white background, a pink triangle pulses beside a still red circle",
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def late() -> FlowNetwork:
    """An LTX-2.5 of toy widths, without zero layers."""
    network = FlowNetwork(tiny_config("2.5"), hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=rng(1))
    return network


@pytest.fixture(scope="module")
def gemma4(world_gemma, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma4")
    write_world_gemma4(folder, world_gemma, prompts=("blurry, low quality",))
    return folder


def hidden_states(folder, captions=CAPTIONS) -> list[Tensor]:
    return encode_captions(*load_text(folder), captions, dtype=torch.float32).all()


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).square().sum() / wanted.square().sum()).detach())


def test_the_translated_gemma_4_has_nearly_the_states_of_the_gemma_3(world_gemma, gemma4) -> None:
    for old, new in zip(hidden_states(world_gemma), hidden_states(gemma4), strict=True):
        assert old.shape == new.shape
        errors = [relative(new[:, state], old[:, state]) for state in range(GEMMA_LAYERS + 1)]
        # Its last layer has the attention of Gemma 4, and so another result.
        assert max(errors[:-1]) < 0.01 < errors[-1] < 1


def test_words_for_lengths_are_single_tokens_of_the_gemma_4_alone(world_gemma, gemma4) -> None:
    old, new = (load_text(folder)[1] for folder in (world_gemma, gemma4))
    plain, said = "a red circle bounces", "a red circle bounces, for two and a half seconds"
    assert len(old([plain])[0][0]) == len(new([plain])[0][0])
    # A comma and six words.
    assert len(new([said])[0][0]) - len(new([plain])[0][0]) == 7
    assert len(old([said])[0][0]) > len(new([said])[0][0])


def test_the_refitted_projection_has_the_features_of_the_old_one(network, late, world_gemma, gemma4) -> None:
    states, old_states = (batch_text(hidden_states(folder)) for folder in (gemma4, world_gemma))
    before = late.projection.padded(states.hidden, states.mask)
    refit_projection(late.projection, network.projection, states, old_states)
    found = late.projection.padded(states.hidden, states.mask)
    wanted = network.projection.padded(old_states.hidden, old_states.mask)
    for stream in ("video", "audio"):
        off, fitted = (relative(getattr(f, stream), getattr(wanted, stream)) for f in (before, found))
        assert fitted < 0.01
        assert fitted < off / 10
    with pytest.raises(ValueError, match="split the prompts into the same tokens"):
        refit_projection(
            late.projection, network.projection, states, batch_text(hidden_states(gemma4, CAPTIONS[:2]))
        )


def test_feed_forwards_absorb_their_biases(network, sample) -> None:
    late = FlowNetwork(tiny_config("2.5"), hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1)
    with torch.no_grad():
        for block in network.transformer.transformer_blocks:
            # A shift that is not zero is the direction along which inputs are constant.
            block.scale_shift_table[3] = torch.linspace(-2, 2, block.scale_shift_table.shape[1])
    start_continued(late, network.state_dict())
    batch = draw_flow(sample, PLAIN, sample.text, rng(), context_length=32)

    def error() -> float:
        with torch.no_grad():
            tokens = [
                predict(
                    net, batch.latent, batch.task, batch.task.sigma, net.context(batch.text, 32), 25.0
                ).video
                for net in (late, network)
            ]
        return relative(*tokens)

    dropped = error()
    absorb_biases(late, network, lambda net: flow_loss(net, batch, PLAIN))
    assert 0 < error() < dropped / 10


def test_only_parts_of_the_video_differ_from_the_model_that_is_continued(network, late) -> None:
    state = network.state_dict()
    fresh = FlowNetwork(tiny_config("2.5"), hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1)
    start_continued(fresh, state)
    assert not fresh.transformer.keyframes_abs_pos_embedding.any()
    freeze_but_video(fresh)
    trained = {name for name, p in fresh.named_parameters() if p.requires_grad}
    missing = state.keys() - fresh.state_dict().keys()
    assert missing
    assert all(is_changed(name) and name.endswith(".bias") for name in missing)
    assert all(is_changed(name) for name in trained)
    assert not any("audio" in name or "connector" in name or "_ca_" in name for name in trained)
    assert is_changed("text_embedding_projection.audio_aggregate_embed.weight")
    for name, tensor in fresh.state_dict().items():
        assert (
            torch.equal(tensor, state[name])
            if name in state
            else name == "transformer.keyframes_abs_pos_embedding"
        )


def test_training_and_sampling_call_the_network_alike_with_keyframes(late, sample) -> None:
    sigma, clean = 0.7, sample.latent
    keyframes = Keyframes(
        torch.randn(clean.video[:, :, :2].shape, generator=rng(3)),
        torch.randn(clean.video[:, :, :2].shape, generator=rng(4)),
        (5, 16),
    )
    state = LatentState(latent=clean.map(torch.zeros_like), mask=mask_like(clean), fps=sample.fps)
    task = Task(
        sigma=torch.full((2,), sigma), mask=state.mask, conditioning=clean, noise=clean.map(torch.randn_like)
    )
    state = KeyframeSlots(frames=(5, 16)).apply(state)
    x, mixed = noised(clean, task, task.sigma), keyframes.noised(task.sigma)
    with torch.no_grad():
        context = late.context(sample.text, 128)
        velocity = predict(late, x, task, task.sigma, context, sample.fps, keyframes=keyframes)
        full = replace(x, video=torch.cat((x.video, mixed), dim=2))
        x0 = Denoiser(late.transformer, state, context)(full, sigma)
    video = full.video.flatten(3).movedim(1, -1).flatten(1, 2) - sigma * velocity.video
    torch.testing.assert_close(x0.video.flatten(3).movedim(1, -1).flatten(1, 2), video)
    sampled = generated_keyframes(x0, state)
    assert sampled is not None
    assert sampled.shape == mixed.shape


def test_keyframes_are_the_last_frames_and_have_a_loss(late, sample) -> None:
    sample = replace(sample, last=torch.randn(sample.latent.video[:, :, :1].shape))
    drawn = [draw_keyframes(sample, replace(PLAIN, slots=0.5), rng(seed)) for seed in range(100)]
    assert 30 < sum(keyframes is None for keyframes in drawn) < 70
    batch = draw_flow(sample, replace(PLAIN, slots=1), sample.text, rng(), context_length=32)
    assert batch.keyframes is not None
    assert batch.keyframes.frames == (16,)
    assert torch.equal(batch.keyframes.latent, sample.last)
    late.zero_grad()
    flow_loss(late, batch, PLAIN)["loss"].backward()
    assert late.transformer.keyframes_abs_pos_embedding.grad.any()
    # A perfect prediction has no error, and one that is wrong for the keyframe alone has some.
    target = batch.task.noise - batch.latent
    tokens = target.video.flatten(2).mT, target.audio.permute(0, 2, 1, 3).flatten(2)
    slots = (batch.keyframes.noise - batch.keyframes.latent).flatten(2).mT
    right = type(target)(torch.cat((tokens[0], slots), dim=1), tokens[1])
    wrong = type(target)(torch.cat((tokens[0], slots + 1), dim=1), tokens[1])
    assert masked_error(right, target, batch.task, batch.keyframes)["video"] == 0
    assert masked_error(wrong, target, batch.task, batch.keyframes)["video"] > 0


def test_without_keyframes_a_seed_draws_what_it_always_drew(sample) -> None:
    sample = replace(sample, last=torch.randn(sample.latent.video[:, :, :1].shape))
    generators = rng(), rng()
    assert draw_keyframes(sample, PLAIN, generators[0]) is None
    assert torch.equal(*(torch.rand(1, generator=generator) for generator in generators))
