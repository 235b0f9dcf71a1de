"""Cached keys and values of the text: the same result, computed once, of the size that was announced."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recorded import CONFIG, PLAN, Recorded, noisy, text

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.state import empty_state
from ltx2_core.run.request import Request, plan_stages
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG
from ltx2_core.sampling.model_calls import ModelCalls
from ltx2_core.transformer import TextMemory, text_keys_bytes

STILL = replace(CONFIG, cross_attention_adaln=False)
STATIC = replace(CONFIG, prompt_adaln=False)
SIGMAS = (0.9, 0.6, 0.3)


def network(config):
    torch.manual_seed(0)
    model = Recorded(config).requires_grad_(False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.calls = []
    return model


def steps(model, *, text_keys=False):
    """Estimates of some steps, and how often a block computed keys of a text."""
    computed = []
    attentions = [b.get_submodule(n).to_k for b in model.transformer_blocks for n in ("attn2", "audio_attn2")]
    hooks = [layer.register_forward_hook(lambda *args: computed.append(1)) for layer in attentions]
    state, calls = empty_state(PLAN), ModelCalls(text_keys=text_keys)
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3), calls=calls)
    x = noisy(state)
    with torch.inference_mode():
        estimates = [denoise(x, sigma) for sigma in SIGMAS]
    for hook in hooks:
        hook.remove()
    return estimates, len(computed) // len(attentions)


@pytest.mark.parametrize(("config", "cached"), [(STILL, True), (STATIC, True), (CONFIG, False)])
def test_cached_texts_have_the_same_result_and_are_computed_once_if_constant(config, cached):
    model = network(config)
    plain, count = steps(model)
    by_cache, count_by_cache = steps(model, text_keys=True)
    # Two prompts; without the cache in each of the steps.
    assert (count, count_by_cache) == (2 * len(SIGMAS), 2 if cached else 2 * len(SIGMAS))
    for a, e in zip(by_cache, plain, strict=True):
        torch.testing.assert_close(a.video, e.video, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.audio, e.audio, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [STILL, STATIC, CONFIG])
def test_the_cache_is_of_the_announced_size(config):
    model, memory = network(config), TextMemory(keys=True)
    denoise = Denoiser(model, empty_state(PLAN), text(), guidance=CFG())
    with torch.inference_mode():
        denoise(noisy(empty_state(PLAN)), 0.5)
        video, audio, *_ = model.calls[-1]
        model(video, audio, texts=memory)
    held = sum(t.nbytes for _, made in memory._cached.values() for t in made)
    assert held == text_keys_bytes(config, torch.float32, tokens=6, samples=1)


def test_a_pipeline_counts_its_cache_and_makes_the_same_clip(tiny_set_20):
    def pipeline(**options):
        return LTX2Pipeline(tiny_set_20.checkpoint, text_encoder=tiny_set_20.text_encoder, **options)

    options = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "steps": 2, "stages": 1, "seed": 4}
    plain, caching = pipeline(), pipeline(keep_text_keys=True)
    stages = plan_stages(Request(prompt="a ball", **options), plain.numerics)
    assert plain.text_keys_bytes(stages) == 0 < caching.text_keys_bytes(stages)
    plans = [p.plan(stages, 10**9).stages for p in (caching, plain)]
    more = [one.total - other.total for one, other in zip(*plans, strict=True)]
    assert more == [0, caching.text_keys_bytes(stages), 0, 0], "text, stage, audio, decode"
    latents = [p("a ball", **options).latents for p in (plain, caching)]
    torch.testing.assert_close(latents[0].video, latents[1].video, rtol=0, atol=1e-6)
    torch.testing.assert_close(latents[0].audio, latents[1].audio, rtol=0, atol=1e-6)


def test_the_decode_that_is_planned_with_cached_keys_is_the_one_that_runs(tiny_set_20):
    def pipeline(**options):
        return LTX2Pipeline(tiny_set_20.checkpoint, text_encoder=tiny_set_20.text_encoder, **options)

    options = {"width": 256, "height": 256, "num_frames": 25, "fps": 8.0, "steps": 2, "stages": 1}
    plain = pipeline()
    stages = plan_stages(Request(prompt="a ball", **options), plain.numerics)
    clip, held = stages[-1].clip, pipeline(keep_text_keys=True).text_keys_bytes(stages)
    roomy = plain.plan(stages, 10**12).stages[-1].total
    matters = 0
    for budget in range(roomy // 2, 2 * roomy, roomy // 32):
        caching = pipeline(keep_text_keys=True, max_memory=budget)
        runs = caching.networks.decode_choice(clip)
        assert caching.plan(stages, budget).decode == runs
        matters += runs != plain.plan(stages, budget - held).decode
    assert matters, "or the budgets say nothing"
