"""Flow matching: the network gets the same inputs as at inference, and only generated tokens have a loss."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace, InputAudio
from ltx2_core.conditioning.masks import mask_like
from ltx2_core.conditioning.patchify import patchify_audio, patchify_video, unpatchify_audio, unpatchify_video
from ltx2_core.conditioning.state import drop_guides
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.tiny.settings import tiny_config
from ltx2_core.training.flow import draw_flow, flow_loss, masked_error, noised, predict
from ltx2_core.training.lora import LoraAdapters
from ltx2_core.training.network import FlowNetwork
from ltx2_core.training.optimisers import Muon
from ltx2_core.training.tasks import (
    FlowOptions,
    Guides,
    Task,
    draw_guides,
    draw_sigmas,
    draw_task,
    drop_text,
    time_region,
)
from ltx2_core.training.text import batch_text
from ltx2_core.training.tiny.distill import DistillOptions, distill_loss, draw_distill
from ltx2_core.training.tiny.gemma import GEMMA_LAYERS, GEMMA_WIDTH
from ltx2_core.types import AVLatent, LatentState

PLAIN = FlowOptions(unconditional=0, first_frame=0, input_audio=0, input_video=0, region=0, guides=0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_levels_fill_the_unit_interval_and_long_clips_get_more_noise() -> None:
    few, many = draw_sigmas(20000, 64, rng()), draw_sigmas(20000, 4096, rng())
    for sigmas in (few, many):
        assert 0 < sigmas.min() < 0.02
        assert 0.99 < sigmas.max() <= 1
    assert many.mean() - few.mean() > 0.1
    torch.testing.assert_close(many, draw_sigmas(20000, 10**6, rng()))


def test_shares_decide_what_is_conditioning(sample) -> None:
    def masks(**shares: float) -> AVLatent:
        return draw_task(sample, replace(PLAIN, **shares), rng()).mask

    everything = masks()
    assert everything.video.all()
    assert everything.audio.all()
    assert not masks(input_audio=1).audio.any()
    assert masks(input_audio=1).video.all()
    assert not masks(input_video=1).video.any()
    assert masks(input_video=1).audio.all()
    first = masks(first_frame=1)
    assert not first.video[:, :, 0].any()
    assert first.video[:, :, 1:].all()
    assert first.audio.all()
    region = masks(region=1)
    assert 0 < torch.cat((region.video.flatten(), region.audio.flatten())).mean() < 1


def test_conditioning_is_clean_and_has_no_loss(sample) -> None:
    task = draw_task(sample, replace(PLAIN, input_audio=1, first_frame=1), rng())
    x = noised(sample.latent, task, task.sigma)
    assert torch.equal(x.audio, sample.latent.audio)
    assert torch.equal(x.video[:, :, 0], sample.latent.video[:, :, 0])
    wrong = sample.latent.map(lambda latent: torch.full_like(latent, 9.0))
    video = torch.where(task.mask.video.bool(), sample.latent.video, wrong.video)
    tokens = AVLatent(patchify_video(video), patchify_audio(wrong.audio))
    errors = masked_error(tokens, sample.latent, task)
    assert errors["video"] == 0
    assert errors["audio"] == 0


def test_preserved_content_around_a_region_is_another_clips_half_of_the_time(sample) -> None:
    other_clips = 0
    for seed in range(40):
        task = draw_task(sample, replace(PLAIN, region=1), rng(seed))
        other_clips += int((task.conditioning.video != sample.latent.video).flatten(1).any(dim=1).sum())
    assert 20 <= other_clips <= 60


def test_a_time_region_covers_the_same_seconds_in_both_streams(sample) -> None:
    mask = time_region(sample.latent, 25.0, 0.4, 0.6)
    assert mask.video.flatten().tolist() == [0, 0, 1]  # Their centres are at 0.02, 0.2 and 0.52 s.
    assert mask.audio.flatten().nonzero().flatten().tolist() == [10, 11, 12, 13, 14]
    assert not time_region(sample.latent, 25.0, 0.0, 1.0, audio=False).audio.any()


def test_captions_are_dropped_for_the_unconditional_ones(sample, states) -> None:
    dropped = drop_text(sample.text, batch_text(states[:1]), 1.0, rng())
    assert dropped.mask.sum(dim=1).tolist() == [1, 1]
    undropped = drop_text(sample.text, batch_text(states[:1]), 0.0, rng())
    assert torch.equal(undropped.hidden, sample.text.hidden)
    assert torch.equal(undropped.mask, sample.text.mask)


@pytest.mark.parametrize("conditioning", ["none", "image and audio", "guides", "reference"])
def test_training_and_sampling_call_the_network_alike(network, sample, conditioning) -> None:
    sigma = 0.7
    clean = sample.latent
    state = LatentState(latent=clean.map(torch.zeros_like), mask=mask_like(clean), fps=sample.fps)
    reference = guides = None
    if conditioning == "image and audio":
        state = ImageInPlace(latent=clean.video[:, :, :1]).apply(state)
        state = InputAudio(latent=clean.audio).apply(state)
    elif conditioning == "guides":
        guides = Guides(torch.randn(clean.video[:, :, :2].shape, generator=rng(3)), (0, 16))
        for latent, frame in zip(guides.latent.split(1, dim=2), guides.frames, strict=True):
            state = GuideFrames(latent=latent, frame=frame).apply(state)
    elif conditioning == "reference":
        reference = torch.randn(clean.video.shape, generator=rng(3))
        state = GuideFrames(latent=reference, frame=0).apply(state)
    mask = drop_guides(state.mask, state)
    task = Task(
        sigma=torch.full((2,), sigma), mask=mask, conditioning=clean, noise=clean.map(torch.randn_like)
    )
    x = noised(clean, task, task.sigma)
    with torch.no_grad():
        context = network.context(sample.text, 128)
        velocity = predict(
            network, x, task, task.sigma, context, sample.fps, guides=guides, reference=reference
        )
    v = AVLatent(
        unpatchify_video(velocity.video, *clean.video.shape[2:]), unpatchify_audio(velocity.audio, 16)
    )
    expected = x - v * mask * sigma
    appended = reference if guides is None else guides.latent
    full = x if appended is None else replace(x, video=torch.cat((x.video, appended), dim=2))
    x0 = drop_guides(Denoiser(network.transformer, state, context)(full, sigma), state)
    torch.testing.assert_close(x0.video, expected.video)
    torch.testing.assert_close(x0.audio, expected.audio)


def test_guides_are_the_last_frames_and_half_of_the_time_also_the_first(sample) -> None:
    sample = replace(sample, last=torch.randn(sample.latent.video[:, :, :1].shape))
    drawn = [draw_guides(sample, replace(PLAIN, guides=0.5), rng(seed)) for seed in range(200)]
    frames = Counter(None if guides is None else guides.frames for guides in drawn)
    assert frames.keys() == {None, (16,), (0, 16)}
    assert 75 < frames[None] < 125
    for guides in drawn:
        if guides is not None:
            assert torch.equal(guides.latent[:, :, -1:], sample.last)
            assert len(guides.frames) == 1 or torch.equal(
                guides.latent[:, :, :1], sample.latent.video[:, :, :1]
            )
    assert draw_guides(replace(sample, last=None), replace(PLAIN, guides=1), rng()) is None


def test_a_context_with_all_registers_equals_that_of_the_connectors(network, sample) -> None:
    with torch.no_grad():
        context = network.context(sample.text, 128)
        short = network.context(sample.text, 32)
        expected = network.connectors(network.projection(sample.text.states(), sample.text.mask), length=128)
    torch.testing.assert_close(context.video, expected.video)
    torch.testing.assert_close(context.audio, expected.audio)
    assert short.video.shape[1] == short.audio.shape[1] == 32


def test_a_few_steps_lower_the_loss_of_one_batch(network, sample, states) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        batch = draw_flow(sample, PLAIN, batch_text(states[:1]), rng(), context_length=32)
        loss = flow_loss(network, batch, PLAIN)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert unused == [name for name, _ in network.named_parameters() if is_cross_modal_gate(name)]


def is_cross_modal_gate(name: str) -> bool:
    """Whether a parameter gates or modulates cross-modal attention."""
    return "_a2v_ca_" in name or "av_ca_" in name or ("_to_" in name and "to_gate_logits" in name)


def test_training_cannot_close_attention_between_the_streams(sample, states) -> None:
    network = FlowNetwork(tiny_config("2.3"), hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1)
    frozen = {name: p.detach().clone() for name, p in network.named_parameters() if is_cross_modal_gate(name)}
    assert len(frozen) > 6 * len(network.transformer.transformer_blocks)
    optimizer = Muon([p for p in network.parameters() if p.requires_grad])
    for step in range(3):
        batch = draw_flow(sample, PLAIN, batch_text(states[:1]), rng(step), context_length=32)
        optimizer.zero_grad()
        flow_loss(network, batch, PLAIN)["loss"].backward()
        optimizer.step()
    assert all(torch.equal(network.get_parameter(name), value) for name, value in frozen.items())
    for block in network.transformer.transformer_blocks:
        for name in ("audio_to_video_attn", "video_to_audio_attn"):
            assert block.get_submodule(f"{name}.to_out.0").weight.any(), "cross-modal attention itself learns"


def test_a_student_has_nothing_to_learn_from_a_single_step_without_guidance(network, sample, states) -> None:
    adapters = LoraAdapters(network.transformer, rank=2)
    tasks, negative = FlowOptions(), batch_text(states[:2])

    def loss(**options) -> dict[str, torch.Tensor]:
        settings = DistillOptions(**options)
        batch = draw_distill(sample, settings, tasks, negative, rng(), context_length=32)
        return distill_loss(network, adapters, batch, settings)

    assert loss(substeps=1, cfg=1.0)["loss"] < 1e-8
    guided = loss(substeps=2, cfg=4.0)["loss"]
    assert guided > 1e-4
    guided.backward()
    assert all(pair.b.grad is not None for pair in adapters.pairs)


def test_a_student_starts_from_other_clips_at_the_noise_level_of_a_second_stage_only(sample, states) -> None:
    settings = DistillOptions(mixed=1.0)
    levels = set()
    for seed in range(8):
        batch = draw_distill(sample, settings, FlowOptions(), batch_text(states[:2]), rng(seed))
        for latent, own, other in (
            (batch.flow.latent.video, sample.latent.video, sample.latent.video.roll(-1, 0)),
            (batch.flow.latent.audio, sample.latent.audio, sample.latent.audio.roll(-1, 0)),
        ):
            for index, upper in enumerate(batch.upper.tolist()):
                assert torch.equal(latent[index], (other if upper > 0.9 else own)[index])
                levels.add(upper > 0.9)
    assert levels == {True, False}
