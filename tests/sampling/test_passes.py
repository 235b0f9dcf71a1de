"""Guidance passes of a step: how many there are, in how many forward passes, and which are saved."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager

import pytest
import torch
from recorded import PLAN, assert_equal, noisy, text

from ltx2_core.conditioning.items import InputAudio
from ltx2_core.conditioning.patchify import unpatchify_video
from ltx2_core.conditioning.state import empty_state
from ltx2_core.sampling.caching import StepCache
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG, Guidance, GuidanceSchedule, Nag, StreamGuidance
from ltx2_core.sampling.model_calls import ModelCalls
from ltx2_core.sampling.samplers import sample_euler, sample_euler_cfg_pp, sample_res_2s
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, DISTILLED_STAGE2_SIGMAS

STG = Guidance(video=StreamGuidance(stg=1), stg_blocks=(1,))
ALL = Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3, rescale=0.7), stg_blocks=(1,))


@contextmanager
def block_samples(model):
    """How many samples each block computes, forward pass by forward pass."""
    counts = [[] for _ in model.transformer_blocks]
    hooks = [
        block.register_forward_pre_hook(
            lambda block, args, number=number: counts[number].append(len(args[0]))
        )
        for number, block in enumerate(model.transformer_blocks)
    ]
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("guidance", "passes"),
    [(CFG(), 1), (CFG(video=3), 2), (CFG(audio=3), 2), (CFG(video=3, audio=7), 2), (STG, 2), (ALL, 4)],
)
def test_a_step_costs_one_pass_for_each_scale_in_use_with_the_same_bits_for_any_batch_size(
    model, guidance, passes
):
    state = empty_state(PLAN, 2)
    x, results = noisy(state), []
    for size in (1, 2, 4):
        model.calls.clear()
        denoise = Denoiser(
            model, state, text(), text(1), guidance=guidance, calls=ModelCalls(passes_per_call=size)
        )
        results.append(denoise(x, 0.8))
        assert len(model.calls) == passes
        assert denoise.evaluations == (passes, 0)
    for sliced in results[1:]:
        assert_equal(results[0], sliced)


@pytest.mark.parametrize(("guidance", "passes"), [(CFG(video=3), 2), (STG, 2), (ALL, 4)])
def test_in_other_dtypes_passes_share_calls_and_give_the_same_numbers(network, guidance, passes):
    # Float64 stands for every device and dtype in which passes share calls.
    model = copy.deepcopy(network).double()
    model.calls = []
    state = empty_state(PLAN, 2)
    x, results = noisy(state), []
    for size in (1, 2, 3, 4):
        model.calls.clear()
        denoise = Denoiser(
            model,
            state,
            text(),
            text(1),
            guidance=guidance,
            calls=ModelCalls(passes_per_call=size, dtype=torch.float64),
        )
        with block_samples(model) as counts:
            results.append(denoise(x, 0.8))
        assert len(model.calls) == math.ceil(passes / size)
        assert sum(counts[0]) == 2 * (passes - bool(guidance.stg_blocks))
        assert sum(counts[1]) == 2 * passes
    for sliced in results[1:]:
        torch.testing.assert_close(results[0].video, sliced.video, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(results[0].audio, sliced.audio, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize("block", [0, 1])
def test_the_perturbed_pass_starts_at_its_block_with_the_result_of_a_whole_one(model, block, audio):
    state = empty_state(PLAN, 2, audio=audio)
    x = noisy(state)
    guidance = Guidance(video=StreamGuidance(stg=1), stg_blocks=(block,))
    denoise = Denoiser(model, state, text(), guidance=guidance)
    with block_samples(model) as counts:
        guided = denoise(x, 0.8)
    assert counts == [[2, 2][block:], [2, 2]]
    video, audio_input, perturbations, _ = model.calls[-1]
    velocity = model(video, audio_input, perturbations)[0]
    plain = Denoiser(model, state, text())(x, 0.8)
    perturbed = x.video - 0.8 * unpatchify_video(velocity, *x.video.shape[2:])
    assert not torch.allclose(perturbed, plain.video, atol=1e-3)
    torch.testing.assert_close(guided.video, 2 * plain.video - perturbed, atol=1e-6, rtol=1e-6)


def test_guidance_of_a_frozen_or_absent_stream_costs_nothing(model):
    frozen = InputAudio(latent=torch.randn(1, 8, 17, 16)).apply(empty_state(PLAN))
    Denoiser(model, frozen, text(), guidance=CFG(audio=7))(noisy(frozen), 0.8)
    silent = empty_state(PLAN, audio=False)
    apart = Guidance(video=StreamGuidance(modality=3))
    Denoiser(model, silent, text(), guidance=apart)(noisy(silent), 0.8)
    assert len(model.calls) == 2


def test_contexts_of_different_length_are_evaluated_one_after_the_other(model):
    state = empty_state(PLAN)
    denoise = Denoiser(
        model,
        state,
        text(),
        text(1, length=4),
        guidance=CFG(video=3, audio=3),
        calls=ModelCalls(passes_per_call=4),
    )
    denoise(noisy(state), 0.8)
    assert [call[0].context.shape[1] for call in model.calls] == [6, 4]


def test_a_run_can_be_stopped_before_any_block(model):
    class Stopped(Exception):
        pass

    def on_block(number):
        blocks.append(number)
        if len(blocks) == 3:
            raise Stopped

    blocks = []
    state = empty_state(PLAN)
    calls = ModelCalls(on_block=on_block)
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3), calls=calls)
    with pytest.raises(Stopped):
        denoise(noisy(state), 0.8)
    assert blocks == [0, 1, 0]


def test_cfg_pp_evaluates_the_negative_prompt_at_cfg_1_too(model):
    state = empty_state(PLAN)
    denoise = Denoiser(model, state, text(), text(1))
    sample_euler_cfg_pp(denoise, noisy(state), DISTILLED_STAGE2_SIGMAS)
    assert denoise.evaluations.run == 6
    x = noisy(state)
    guided, negative = Denoiser(model, state, text(), text(1), guidance=CFG(video=3)).pair(x, 0.8)
    alone = Denoiser(model, state, text(1))(x, 0.8)
    positive = Denoiser(model, state, text())(x, 0.8)
    torch.testing.assert_close(negative.video, alone.video)
    torch.testing.assert_close(guided.video, 3 * positive.video - 2 * alone.video, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="negative prompt"):
        Denoiser(model, state, text()).pair(x, 0.8)


def test_guidance_that_ends_early_saves_the_evaluations_of_the_other_steps(model):
    state = empty_state(PLAN)
    window = Guidance(video=StreamGuidance(cfg=3), from_sigma=0.98, to_sigma=0.9)
    binned = GuidanceSchedule(((1.0, CFG(video=3)), (0.9, Guidance())))
    for guidance, passes in ((window, 8 + 2), (binned, 8 + 6)):
        denoise = Denoiser(model, state, text(), text(1), guidance=guidance)
        sample_euler(denoise, noisy(state), DISTILLED_SIGMAS)
        assert denoise.evaluations.run == len(model.calls) == passes
        model.calls.clear()


def test_nag_uses_the_negative_prompt_without_a_pass(model):
    state = empty_state(PLAN)
    x = noisy(state)

    def run(negative, **nag):
        return Denoiser(model, state, text(), negative, nag=Nag(**nag))(x, 0.8)

    plain = Denoiser(model, state, text())(x, 0.8)
    calls = len(model.calls)
    assert_equal(run(text(1), scale=1.0, alpha=0.0), plain)
    torch.testing.assert_close(run(text(), scale=11.0).video, plain.video, atol=1e-4, rtol=1e-4)
    led = run(text(1))
    assert not torch.allclose(led.video, plain.video, atol=1e-3)
    assert not torch.allclose(led.audio, plain.audio, atol=1e-3)
    assert len(model.calls) == calls + 3


@pytest.mark.parametrize(
    ("kind", "threshold", "end"), [("timestep", 0.3, 0.89), ("first_block", 0.05, 0.8995)]
)
def test_a_step_cache_saves_evaluations_and_a_low_threshold_saves_none(model, kind, threshold, end):
    state = empty_state(PLAN)
    guidance, sigmas = CFG(video=3, audio=3), torch.linspace(0.9, end, 9)

    def run(cache):
        denoise = Denoiser(model, state, text(), text(1), guidance=guidance, calls=ModelCalls(cache=cache))
        return sample_euler(denoise, noisy(state), sigmas), denoise.evaluations

    exact, counts = run(None)
    assert counts == (16, 0)
    same, counts = run(StepCache(kind=kind, threshold=1e-9))
    assert counts == (16, 0)
    assert_equal(same, exact)
    near, counts = run(StepCache(kind=kind, threshold=threshold))
    assert counts.run + counts.reused == 16
    assert 0 < counts.reused < 14
    assert counts.reused % 2 == 0
    assert (near.video - exact.video).norm() < 0.2 * (noisy(state).video - exact.video).norm()
    block = model.transformer_blocks[0]
    assert not block._forward_hooks
    assert not block._forward_pre_hooks


@pytest.mark.parametrize(
    ("video", "audio", "evaluated"),
    [(1, 1, [0, 2, 4, 6]), (3, 3, [0, 4]), (0, 0, range(8)), (3, 1, [0, 2, 4, 6])],
)
def test_skipped_steps_repeat_the_last_estimate_of_their_stream(model, video, audio, evaluated):
    state = empty_state(PLAN)
    scales = {"video": StreamGuidance(cfg=3, skip_steps=video), "audio": StreamGuidance(skip_steps=audio)}
    denoise = Denoiser(model, state, text(), text(1), guidance=Guidance(**scales), sigmas=DISTILLED_SIGMAS)
    estimates = []
    sample_euler(denoise, noisy(state), DISTILLED_SIGMAS, lambda step, steps, x0: estimates.append(x0))
    assert len(estimates) == 8
    for name, every in (("video", video + 1), ("audio", audio + 1)):
        for step in range(1, 8):
            same = torch.equal(getattr(estimates[step], name), getattr(estimates[step - 1], name))
            assert same == (step % every > 0), (name, step)
    # Where the audio alone is due, the negative prompt of the video is not.
    due = [2 if step % (video + 1) == 0 else 1 for step in evaluated]
    assert denoise.evaluations == (sum(due), 16 - sum(due))


def test_both_halves_of_a_res_2s_step_are_skipped_together(model):
    state = empty_state(PLAN)
    guidance = Guidance(video=StreamGuidance(skip_steps=1), audio=StreamGuidance(skip_steps=1))
    denoise = Denoiser(model, state, text(), guidance=guidance, sigmas=DISTILLED_SIGMAS)
    sample_res_2s(denoise, noisy(state), DISTILLED_SIGMAS, generator=torch.Generator())
    assert denoise.evaluations == (8, 9)
    with pytest.raises(ValueError, match="pass sigmas"):
        Denoiser(model, state, text(), guidance=guidance)
