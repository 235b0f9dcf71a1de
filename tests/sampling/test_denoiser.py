"""The denoiser: masks and timesteps in both numerics, frozen content, streams and batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recorded import CONFIG, PLAN, Recorded, assert_equal, noisy, soft_state, text

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace, InputAudio, InputVideo
from ltx2_core.conditioning.patchify import unpatchify_audio, unpatchify_video
from ltx2_core.conditioning.state import empty_state
from ltx2_core.sampling.caching import StepCache
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG, Guidance, Nag, StreamGuidance
from ltx2_core.sampling.inputs import guide_attention
from ltx2_core.sampling.model_calls import ModelCalls
from ltx2_core.sampling.noise import initial_state
from ltx2_core.sampling.samplers import SAMPLERS, sample_euler
from ltx2_core.sampling.schedules import DISTILLED_STAGE2_SIGMAS
from ltx2_core.transformer import Modality
from ltx2_core.types import AVLatent, Guide, Numerics, TextContext


def cells(model, state):
    """Velocities of the last call as latents."""
    video, audio = model.calls[-1][-1]
    return unpatchify_video(video, *state.latent.video.shape[2:]), unpatchify_audio(audio)


def test_x0_is_the_state_less_its_noise(model):
    state = empty_state(PLAN)
    x = noisy(state)
    x0 = Denoiser(model, state, text())(x, 0.7)
    velocity, audio_velocity = cells(model, state)
    torch.testing.assert_close(x0.video, x.video - 0.7 * velocity)
    torch.testing.assert_close(x0.audio, x.audio - 0.7 * audio_velocity)


def test_officially_each_cell_loses_its_own_noise(model):
    state, sigma = soft_state(), 0.7
    x, m, clean = noisy(state), state.mask.video, state.latent.video
    x0 = Denoiser(model, state, text())(x, sigma)
    video = model.calls[-1][0]
    torch.testing.assert_close(unpatchify_video(video.tokens, 3, 2, 2), x.video)
    z = x.video - m * sigma * cells(model, state)[0]
    torch.testing.assert_close(x0.video, m * z + (1 - m) * clean)


def test_in_comfy_the_model_gets_preserved_content_and_each_cell_loses_the_noise_of_the_step(model):
    state, sigma = soft_state(), 0.7
    x, m, clean = noisy(state), state.mask.video, state.latent.video
    x0 = Denoiser(model, state, text(), numerics=Numerics.COMFY)(x, sigma)
    blended = m * x.video + (1 - m) * clean
    torch.testing.assert_close(unpatchify_video(model.calls[-1][0].tokens, 3, 2, 2), blended)
    z = blended - sigma * cells(model, state)[0]
    torch.testing.assert_close(x0.video, m * z + (1 - m) * clean)


@pytest.mark.parametrize("numerics", list(Numerics))
def test_each_token_has_its_own_timestep_and_equal_ones_share_one(model, numerics):
    state, sigma = soft_state(), 0.5
    Denoiser(model, state, text(), numerics=numerics)(noisy(state), sigma)
    video, audio = model.calls[-1][:2]
    torch.testing.assert_close(
        video.timesteps, sigma * state.mask.video.flatten(1), msg="a token for each latent cell"
    )
    assert audio.timesteps.shape == (1, 1)
    assert audio.timesteps.item() == pytest.approx(0.35)


@pytest.mark.parametrize(("numerics", "video", "audio"), [("official", 0.5, 0.5), ("comfy", 0.3, 0.35)])
def test_gates_use_the_noise_of_the_step_officially_and_that_of_the_noisiest_token_in_comfy(
    model, numerics, video, audio
):
    state = soft_state()
    Denoiser(model, state, text(), numerics=Numerics(numerics))(noisy(state), 0.5)
    inputs = model.calls[-1]
    assert (inputs[0].sigma.item(), inputs[1].sigma.item()) == pytest.approx((video, audio))


@pytest.mark.parametrize("numerics", list(Numerics))
def test_a_frozen_stream_has_no_noise_for_itself_and_for_the_other(model, numerics):
    state = InputAudio(latent=torch.randn(1, 8, 17, 16)).apply(empty_state(PLAN))
    x = initial_state(state, noisy(state), 1.0, numerics)
    Denoiser(model, state, text(), numerics=numerics)(x, 1.0)
    video, audio = model.calls[-1][:2]
    assert audio.timesteps.tolist() == [[0]]
    assert audio.sigma.tolist() == [0]
    assert torch.equal(unpatchify_audio(audio.tokens), state.latent.audio)
    assert video.sigma.tolist() == [1]


@pytest.mark.parametrize("numerics", list(Numerics))
@pytest.mark.parametrize("name", SAMPLERS)
def test_preserved_cells_come_out_bit_for_bit(model, name, numerics):
    state = soft_state()
    state = replace(state, latent=state.latent.map(lambda x: x * 3 + 1e-3))
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3, audio=2), numerics=numerics)
    x = initial_state(state, noisy(state), 0.909375, numerics)
    out = SAMPLERS[name](
        denoise,
        x,
        DISTILLED_STAGE2_SIGMAS,
        generator=torch.Generator().manual_seed(0),
        preserve=denoise.preserve,
    )
    assert torch.equal(out.video[:, :, 0], state.latent.video[:, :, 0])
    assert not torch.equal(out.video[:, :, 1], state.latent.video[:, :, 1])
    frozen = InputAudio(latent=state.latent.audio).apply(InputVideo(latent=state.latent.video).apply(state))
    denoise = Denoiser(model, frozen, text(), text(1), numerics=numerics)
    assert_equal(denoise(initial_state(frozen, noisy(frozen), 1.0, numerics), 1.0), frozen.latent)


def test_official_and_comfy_agree_on_masks_of_zero_and_one(model):
    state = ImageInPlace(latent=torch.randn(1, 128, 1, 2, 2)).apply(empty_state(PLAN))
    runs = []
    for numerics in Numerics:
        denoise = Denoiser(model, state, text(), numerics=numerics)
        x = initial_state(state, noisy(state), 1.0, numerics)
        runs.append(sample_euler(denoise, x, torch.tensor([1.0, 0.6, 0.0])))
    torch.testing.assert_close(runs[0].video, runs[1].video)
    torch.testing.assert_close(runs[0].audio, runs[1].audio)


def test_guidance_of_one_stream_does_not_change_the_other(model):
    state = empty_state(PLAN)
    x = noisy(state)
    plain = Denoiser(model, state, text())(x, 0.8)
    guided = Denoiser(model, state, text(), text(1), guidance=CFG(video=3))(x, 0.8)
    assert torch.equal(guided.audio, plain.audio)
    assert not torch.allclose(guided.video, plain.video)


@pytest.mark.parametrize("numerics", list(Numerics))
def test_a_sample_does_not_depend_on_its_batch(model, numerics):
    both = soft_state(2)
    x = noisy(both)
    guidance = Guidance(video=StreamGuidance(cfg=3, rescale=0.7), audio=StreamGuidance(cfg=2, rescale=0.5))
    prompts, negative = text(3, batch=2), text(1)

    def run(state, x, prompt):
        return Denoiser(model, state, prompt, negative, guidance=guidance, numerics=numerics)(x, 0.8)

    together = run(both, x, prompts)
    for i in range(2):
        one = slice(i, i + 1)
        alone = run(
            soft_state(), x.map(lambda t, s=one: t[s]), TextContext(prompts.video[one], prompts.audio[one])
        )
        torch.testing.assert_close(together.video[one], alone.video)
        torch.testing.assert_close(together.audio[one], alone.audio)


@pytest.mark.parametrize("absent", ["video", "audio"])
def test_one_stream_alone(model, absent):
    state = empty_state(PLAN, **{absent: False})
    out = sample_euler(Denoiser(model, state, text()), noisy(state), torch.tensor([1.0, 0.5, 0.0]))
    assert getattr(out, absent) is None
    assert model.calls[-1][0 if absent == "video" else 1] is None


def test_the_model_computes_in_its_own_precision_and_the_state_stays_float32(model):
    low = Recorded(CONFIG, dtype=torch.bfloat16)
    low.load_state_dict(model.state_dict())
    low.calls = []
    state = empty_state(PLAN)
    x = noisy(state)
    out = Denoiser(low, state, text(), calls=ModelCalls(dtype=torch.bfloat16))(x, 0.8)
    assert low.calls[-1][0].tokens.dtype == low.calls[-1][0].context.dtype == torch.bfloat16
    assert low.calls[-1][0].timesteps.dtype == torch.float32
    assert out.video.dtype == out.audio.dtype == torch.float32
    torch.testing.assert_close(out.video, Denoiser(model, state, text())(x, 0.8).video, atol=0.2, rtol=0.1)


def test_the_rotary_tables_are_computed_once_and_equal_those_of_the_model(model):
    state = GuideFrames(latent=torch.randn(1, 128, 1, 2, 2), frame=9).apply(empty_state(PLAN))
    x = noisy(state)
    Denoiser(model, state, text())(x, 0.8)
    video, audio, _, out = model.calls[-1]
    assert isinstance(video, Modality)
    again = model(video, audio)
    torch.testing.assert_close(out[0], again[0])
    torch.testing.assert_close(out[1], again[1])
    assert video.keyframes.flatten().tolist() == [1] * 4 + [0] * 12


@pytest.mark.parametrize("between", [0.0, 1.0])
def test_guides_and_video_attend_to_each_other_by_the_weight_of_the_guide(between):
    def guide(tokens, weight):
        return Guide(frames=1, positions=torch.zeros(1, 3, tokens, 2), attention=weight)

    weights = guide_attention([guide(1, 0.5), guide(2, 1.0)], between_guides=between)
    b = between
    expected = [
        [1, 1, 0.5, 1, 1],
        [1, 1, 0.5, 1, 1],
        [0.5, 0.5, 1, b, b],
        [1, 1, b, 1, 1],
        [1, 1, b, 1, 1],
    ]
    assert weights.dense(5).tolist() == [expected]
    assert guide_attention([guide(1, 1.0), guide(2, 1.0)], between_guides=between) is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_masked_cells_are_preserved_at_every_split_of_an_official_schedule(model, name):
    state = soft_state()
    state = replace(state, latent=state.latent.map(lambda x: x * 3 + 1e-3))
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3, audio=2))
    x = initial_state(state, noisy(state), 0.909375)
    out = SAMPLERS[name](
        denoise,
        x,
        DISTILLED_STAGE2_SIGMAS[:3],
        generator=torch.Generator().manual_seed(0),
        preserve=denoise.preserve,
    )
    assert torch.equal(out.video[:, :, 0], state.latent.video[:, :, 0])


def test_what_cannot_be_denoised_is_refused(model):
    state = empty_state(PLAN, 2)
    with pytest.raises(ValueError, match="0 to 1"):
        Denoiser(model, state, text(), guidance=Guidance(video=StreamGuidance(stg=1), stg_blocks=(28,)))
    with pytest.raises(ValueError, match="reference audio"):
        Denoiser(model, state, text(), guidance=Guidance(audio=StreamGuidance(identity=3)))
    with pytest.raises(ValueError, match="nag needs a negative"):
        Denoiser(model, state, text(), nag=Nag())
    with pytest.raises(ValueError, match="takes the place"):
        Denoiser(model, state, text(), text(1), nag=Nag(), guidance=CFG(video=3))
    with pytest.raises(ValueError, match="passes_per_call"):
        ModelCalls(passes_per_call=0)
    with pytest.raises(ValueError, match="unknown"):
        StepCache(kind="magic")
    with pytest.raises(ValueError, match="threshold"):
        StepCache(threshold=0.0)
    with pytest.raises(ValueError, match="negative prompt"):
        Denoiser(model, state, text(), guidance=CFG(video=3))
    with pytest.raises(ValueError, match="give 1 or 2"):
        Denoiser(model, state, text(batch=3))
    with pytest.raises(ValueError, match="neither video nor audio"):
        Denoiser(model, replace(state, latent=AVLatent(None, None), mask=AVLatent(None, None)), text())
