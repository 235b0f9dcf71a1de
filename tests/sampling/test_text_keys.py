"""Keys and values of the text kept from step to step: the same result, made once, as large as was said."""

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


def steps(model, **options):
    """Estimates of some steps, and how often a block made keys of a text."""
    made = []
    attentions = [b.get_submodule(n).to_k for b in model.transformer_blocks for n in ("attn2", "audio_attn2")]
    hooks = [layer.register_forward_hook(lambda *given: made.append(1)) for layer in attentions]
    state = empty_state(PLAN)
    denoise = Denoiser(model, state, text(), text(1), guidance=CFG(video=3), **options)
    x = noisy(state)
    with torch.inference_mode():
        found = [denoise(x, sigma) for sigma in SIGMAS]
    for hook in hooks:
        hook.remove()
    return found, len(made) // len(attentions)


@pytest.mark.parametrize(("config", "kept"), [(STILL, True), (STATIC, True), (CONFIG, False)])
def test_kept_texts_give_the_same_and_are_computed_once_where_they_do_not_change(config, kept):
    model = network(config)
    plain, made = steps(model)
    remembered, remade = steps(model, text_keys=True)
    # Two prompts; without keeping in each of the steps.
    assert (made, remade) == (2 * len(SIGMAS), 2 if kept else 2 * len(SIGMAS))
    for a, e in zip(remembered, plain, strict=True):
        torch.testing.assert_close(a.video, e.video, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.audio, e.audio, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [STILL, STATIC, CONFIG])
def test_what_is_kept_is_as_large_as_was_said(config):
    model, memory = network(config), TextMemory(keys=True)
    denoise = Denoiser(model, empty_state(PLAN), text(), guidance=CFG())
    with torch.inference_mode():
        denoise(noisy(empty_state(PLAN)), 0.5)
        video, audio, *_ = model.calls[-1]
        model(video, audio, texts=memory)
    kept = sum(t.nbytes for _, made in memory._cached.values() for t in made)
    assert kept == text_keys_bytes(config, torch.float32, tokens=6, samples=1)


def test_a_pipeline_counts_what_it_keeps_and_makes_the_same_clip(tiny_set_20):
    def pipeline(**options):
        return LTX2Pipeline(tiny_set_20.checkpoint, text_encoder=tiny_set_20.text_encoder, **options)

    options = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "steps": 2, "stages": 1, "seed": 4}
    plain, keeping = pipeline(), pipeline(keep_text_keys=True)
    stages = plan_stages(Request(prompt="a ball", **options), plain.numerics)
    assert plain.text_keys_bytes(stages) == 0 < keeping.text_keys_bytes(stages)
    plans = [p.plan(stages, 10**9).stages for p in (keeping, plain)]
    more = [one.total - other.total for one, other in zip(*plans, strict=True)]
    assert more == [0, keeping.text_keys_bytes(stages), 0, 0], "text, stage, sound, decode"
    made = [p("a ball", **options).latents for p in (plain, keeping)]
    torch.testing.assert_close(made[0].video, made[1].video, rtol=0, atol=1e-6)
    torch.testing.assert_close(made[0].audio, made[1].audio, rtol=0, atol=1e-6)


def test_the_decode_that_is_planned_beside_kept_keys_is_the_one_that_runs(tiny_set_20):
    def pipeline(**options):
        return LTX2Pipeline(tiny_set_20.checkpoint, text_encoder=tiny_set_20.text_encoder, **options)

    options = {"width": 256, "height": 256, "num_frames": 25, "fps": 8.0, "steps": 2, "stages": 1}
    plain = pipeline()
    stages = plan_stages(Request(prompt="a ball", **options), plain.numerics)
    clip, kept = stages[-1].clip, pipeline(keep_text_keys=True).text_keys_bytes(stages)
    roomy = plain.plan(stages, 10**12).stages[-1].total
    matters = 0
    for budget in range(roomy // 2, 2 * roomy, roomy // 8):
        keeping = pipeline(keep_text_keys=True, max_memory=budget)
        runs = keeping.networks.decode_choice(clip)
        assert keeping.plan(stages, budget).decode == runs
        matters += runs != plain.plan(stages, budget - kept).decode
    assert matters, "or the budgets say nothing"
