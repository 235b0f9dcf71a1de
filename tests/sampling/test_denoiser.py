"""The denoiser: masks and timesteps in both numerics, frozen content, guidance passes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from ltx2_core.conditioning.items import AudioGiven, GuideFrames, ImageInPlace, VideoGiven
from ltx2_core.conditioning.patchify import unpatchify_audio, unpatchify_video
from ltx2_core.conditioning.state import empty_state
from ltx2_core.config import TransformerConfig
from ltx2_core.sampling.caching import StepCache
from ltx2_core.sampling.denoiser import Denoiser, guide_attention
from ltx2_core.sampling.guidance import CFG, Guidance, GuidanceSchedule, Nag, StreamGuidance
from ltx2_core.sampling.noise import initial_state, make_noise
from ltx2_core.sampling.samplers import SAMPLERS, sample_euler, sample_euler_cfg_pp
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, DISTILLED_STAGE2_SIGMAS
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer import Modality, Transformer
from ltx2_core.types import AVLatent, Guide, Numerics, TextContext

PLAN = plan_clip(64, 64, frames=17, fps=25)
CONFIG = TransformerConfig(
    num_layers=2,
    heads=2,
    head_dim=12,
    audio_head_dim=8,
    caption_projection=False,
    cross_attention_adaln=True,
    caption_channels=24,
)


class Recorded(Transformer):
    """The real network, tiny, that remembers what it was given."""

    def forward(self, video, audio, perturbations=None, **options):
        out = super().forward(video, audio, perturbations, **options)
        self.calls.append((video, audio, perturbations, out))
        return out


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Recorded(CONFIG).requires_grad_(False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def model(network):
    network.calls = []
    return network


def text(seed=0, batch=1, length=6):
    generator = torch.Generator().manual_seed(seed)
    return TextContext(
        torch.randn(batch, length, CONFIG.dim, generator=generator),
        torch.randn(batch, length, CONFIG.audio_dim, generator=generator),
    )


def noisy(state, seed=1):
    return make_noise(state.latent, seed)


def soft_state(batch=1):
    torch.manual_seed(2)
    state = ImageInPlace(latent=torch.randn(1, 128, 3, 2, 2), strength=0.4).apply(empty_state(PLAN, batch))
    state = ImageInPlace(latent=torch.randn(1, 128, 1, 2, 2)).apply(state)
    return AudioGiven(latent=torch.randn(1, 8, 17, 16), strength=0.3).apply(state)


def cells(model, state):
    """Velocities of the last call as latents."""
    video, audio = model.calls[-1][-1]
    return unpatchify_video(video, *state.latent.video.shape[2:]), unpatchify_audio(audio)


def assert_equal(a, b):
    assert torch.equal(a.video, b.video)
    assert torch.equal(a.audio, b.audio)


def test_x0_is_the_state_less_its_noise(model):
    state = empty_state(PLAN)
    x = noisy(state)
    x0 = Denoiser(model, state, text())(x, 0.7)
    velocity, sound = cells(model, state)
    torch.testing.assert_close(x0.video, x.video - 0.7 * velocity)
    torch.testing.assert_close(x0.audio, x.audio - 0.7 * sound)


def test_officially_each_cell_loses_its_own_noise(model):
    state, sigma = soft_state(), 0.7
    x, m, clean = noisy(state), state.mask.video, state.latent.video
    x0 = Denoiser(model, state, text())(x, sigma)
    seen = model.calls[-1][0]
    torch.testing.assert_close(unpatchify_video(seen.tokens, 3, 2, 2), x.video)
    z = x.video - m * sigma * cells(model, state)[0]
    torch.testing.assert_close(x0.video, m * z + (1 - m) * clean)


def test_in_comfy_kept_content_is_shown_and_each_cell_loses_the_noise_of_the_step(model):
    state, sigma = soft_state(), 0.7
    x, m, clean = noisy(state), state.mask.video, state.latent.video
    x0 = Denoiser(model, state, text(), numerics=Numerics.COMFY)(x, sigma)
    shown = m * x.video + (1 - m) * clean
    torch.testing.assert_close(unpatchify_video(model.calls[-1][0].tokens, 3, 2, 2), shown)
    z = shown - sigma * cells(model, state)[0]
    torch.testing.assert_close(x0.video, m * z + (1 - m) * clean)


@pytest.mark.parametrize("numerics", list(Numerics))
def test_tokens_are_told_their_own_noise_and_equal_ones_once(model, numerics):
    state, sigma = soft_state(), 0.5
    Denoiser(model, state, text(), numerics=numerics)(noisy(state), sigma)
    video, audio = model.calls[-1][:2]
    torch.testing.assert_close(
        video.timesteps, sigma * state.mask.video.flatten(1), msg="a token for each latent cell"
    )
    assert audio.timesteps.shape == (1, 1)
    assert audio.timesteps.item() == pytest.approx(0.35)


@pytest.mark.parametrize(("numerics", "video", "audio"), [("official", 0.5, 0.5), ("comfy", 0.3, 0.35)])
def test_gates_see_the_noise_of_the_step_officially_and_that_of_the_noisiest_token_in_comfy(
    model, numerics, video, audio
):
    state = soft_state()
    Denoiser(model, state, text(), numerics=Numerics(numerics))(noisy(state), 0.5)
    seen = model.calls[-1]
    assert (seen[0].sigma.item(), seen[1].sigma.item()) == pytest.approx((video, audio))


@pytest.mark.parametrize("numerics", list(Numerics))
def test_a_frozen_stream_is_shown_without_noise_to_itself_and_to_the_other(model, numerics):
    state = AudioGiven(latent=torch.randn(1, 8, 17, 16)).apply(empty_state(PLAN))
    x = initial_state(state, noisy(state), 1.0, numerics)
    Denoiser(model, state, text(), numerics=numerics)(x, 1.0)
    video, audio = model.calls[-1][:2]
    assert audio.timesteps.tolist() == [[0]]
    assert audio.sigma.tolist() == [0]
    assert torch.equal(unpatchify_audio(audio.tokens), state.latent.audio)
    assert video.sigma.tolist() == [1]


@pytest.mark.parametrize("numerics", list(Numerics))
@pytest.mark.parametrize("name", SAMPLERS)
def test_kept_cells_come_out_bit_for_bit(model, name, numerics):
    state = soft_state()
    state = replace(state, latent=state.latent.map(lambda x: x * 3 + 1e-3))
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3, audio=2), numerics=numerics)
    x = initial_state(state, noisy(state), 0.909375, numerics)
    out = SAMPLERS[name](
        denoise, x, DISTILLED_STAGE2_SIGMAS, generator=torch.Generator().manual_seed(0), keep=denoise.keep
    )
    assert torch.equal(out.video[:, :, 0], state.latent.video[:, :, 0])
    assert not torch.equal(out.video[:, :, 1], state.latent.video[:, :, 1])
    frozen = AudioGiven(latent=state.latent.audio).apply(VideoGiven(latent=state.latent.video).apply(state))
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


@pytest.mark.parametrize(
    ("guidance", "passes"),
    [
        (CFG(), 1),
        (CFG(video=3), 2),
        (CFG(audio=3), 2),
        (CFG(video=3, audio=7), 2),
        (Guidance(video=StreamGuidance(stg=1), stg_blocks=(1,)), 2),
        (Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3), stg_blocks=(1,)), 4),
    ],
)
def test_a_step_costs_one_evaluation_for_each_scale_in_use_or_one_call_in_all(network, guidance, passes):
    # In float64: matrix products of another batch round otherwise, and guidance multiplies what they round.
    model = copy.deepcopy(network).double()
    model.calls = []
    state = empty_state(PLAN, 2)
    x, results = noisy(state), []
    for size in (1, 2, 4):
        model.calls.clear()
        denoise = Denoiser(
            model, state, text(), text(1), guidance=guidance, passes_per_call=size, dtype=torch.float64
        )
        results.append(denoise(x, 0.8))
        assert len(model.calls) == math.ceil(passes / size)
        assert sum(len(call[0].tokens) for call in model.calls) == 2 * passes
        assert denoise.evaluations == (passes, 0)
    for sliced in results[1:]:
        torch.testing.assert_close(results[0].video, sliced.video, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(results[0].audio, sliced.audio, atol=1e-6, rtol=1e-6)


def test_guidance_of_a_frozen_or_absent_stream_costs_nothing(model):
    frozen = AudioGiven(latent=torch.randn(1, 8, 17, 16)).apply(empty_state(PLAN))
    Denoiser(model, frozen, text(), guidance=CFG(audio=7))(noisy(frozen), 0.8)
    silent = empty_state(PLAN, audio=False)
    apart = Guidance(video=StreamGuidance(modality=3))
    Denoiser(model, silent, text(), guidance=apart)(noisy(silent), 0.8)
    assert len(model.calls) == 2


def test_guidance_per_stream_leaves_the_other_one_as_it_is(model):
    state = empty_state(PLAN)
    x = noisy(state)
    plain = Denoiser(model, state, text())(x, 0.8)
    guided = Denoiser(model, state, text(), text(1), guidance=CFG(video=3))(x, 0.8)
    assert torch.equal(guided.audio, plain.audio)
    assert not torch.allclose(guided.video, plain.video)


def test_contexts_of_different_length_are_evaluated_one_after_the_other(model):
    state = empty_state(PLAN)
    denoise = Denoiser(
        model, state, text(), text(1, length=4), guidance=CFG(video=3, audio=3), passes_per_call=4
    )
    denoise(noisy(state), 0.8)
    assert [call[0].context.shape[1] for call in model.calls] == [6, 4]


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
    out = Denoiser(low, state, text(), dtype=torch.bfloat16)(x, 0.8)
    assert low.calls[-1][0].tokens.dtype == low.calls[-1][0].context.dtype == torch.bfloat16
    assert low.calls[-1][0].timesteps.dtype == torch.float32
    assert out.video.dtype == out.audio.dtype == torch.float32
    torch.testing.assert_close(out.video, Denoiser(model, state, text())(x, 0.8).video, atol=0.2, rtol=0.1)


def test_a_run_can_be_stopped_before_any_block(model):
    class Stopped(Exception):
        pass

    def on_block(number):
        blocks.append(number)
        if len(blocks) == 3:
            raise Stopped

    blocks = []
    state = empty_state(PLAN)
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3), on_block=on_block)
    with pytest.raises(Stopped):
        denoise(noisy(state), 0.8)
    assert blocks == [0, 1, 0]


def test_the_rotary_tables_are_made_once_and_equal_those_the_model_would_make(model):
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
def test_guides_and_video_see_each_other_by_the_weight_of_the_guide(between):
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
def test_kept_cells_are_kept_at_every_split_of_an_official_schedule(model, name):
    state = soft_state()
    state = replace(state, latent=state.latent.map(lambda x: x * 3 + 1e-3))
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3, audio=2))
    x = initial_state(state, noisy(state), 0.909375)
    out = SAMPLERS[name](
        denoise,
        x,
        DISTILLED_STAGE2_SIGMAS[:3],
        generator=torch.Generator().manual_seed(0),
        keep=denoise.keep,
    )
    assert torch.equal(out.video[:, :, 0], state.latent.video[:, :, 0])


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


def test_nag_reads_the_negative_prompt_without_a_pass(model):
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
        denoise = Denoiser(model, state, text(), text(1), guidance=guidance, cache=cache)
        return sample_euler(denoise, noisy(state), sigmas), denoise.evaluations

    exact, counts = run(None)
    assert counts == (16, 0)
    same, counts = run(StepCache(kind=kind, threshold=1e-9))
    assert counts == (16, 0)
    assert_equal(same, exact)
    near, counts = run(StepCache(kind=kind, threshold=threshold))
    assert counts.run + counts.reused == 16 and 0 < counts.reused < 14 and counts.reused % 2 == 0
    assert (near.video - exact.video).norm() < 0.2 * (noisy(state).video - exact.video).norm()
    block = model.transformer_blocks[0]
    assert not block._forward_hooks and not block._forward_pre_hooks


def test_what_cannot_be_denoised_is_refused(model):
    state = empty_state(PLAN, 2)
    with pytest.raises(ValueError, match="0 to 1"):
        Denoiser(model, state, text(), guidance=Guidance(video=StreamGuidance(stg=1), stg_blocks=(28,)))
    with pytest.raises(ValueError, match="reference sound"):
        Denoiser(model, state, text(), guidance=Guidance(audio=StreamGuidance(identity=3)))
    with pytest.raises(ValueError, match="nag needs a negative"):
        Denoiser(model, state, text(), nag=Nag())
    with pytest.raises(ValueError, match="takes the place"):
        Denoiser(model, state, text(), text(1), nag=Nag(), guidance=CFG(video=3))
    with pytest.raises(ValueError, match="passes_per_call"):
        Denoiser(model, state, text(), passes_per_call=0)
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
