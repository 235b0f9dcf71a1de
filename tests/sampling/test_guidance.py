"""Guidance: which evaluations a step needs and how they combine."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.sampling.guidance import CFG, Guidance, Pass, StreamGuidance
from ltx2_core.types import AVLatent


def estimates(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        which: AVLatent(
            torch.randn(batch, 128, 2, 2, 2, generator=generator),
            torch.randn(batch, 8, 9, 16, generator=generator),
        )
        for which in Pass
    }


@pytest.mark.parametrize(
    ("guidance", "passes"),
    [
        (Guidance(), [Pass.CONDITIONAL]),
        (CFG(), [Pass.CONDITIONAL]),
        (CFG(video=3), [Pass.CONDITIONAL, Pass.NEGATIVE]),
        (CFG(audio=7), [Pass.CONDITIONAL, Pass.NEGATIVE]),
        (Guidance(video=StreamGuidance(stg=1), stg_blocks=(1,)), [Pass.CONDITIONAL, Pass.PERTURBED]),
        (Guidance(audio=StreamGuidance(modality=3)), [Pass.CONDITIONAL, Pass.APART]),
        (Guidance(audio=StreamGuidance(rescale=0.7)), [Pass.CONDITIONAL]),
        (Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3), stg_blocks=(1,)), list(Pass)),
    ],
)
def test_each_neutral_value_takes_its_evaluation_away(guidance, passes):
    assert list(guidance.passes()) == passes


def test_a_stream_that_is_not_generated_asks_for_nothing():
    assert CFG(video=3).passes(video=False) == (Pass.CONDITIONAL,)
    assert CFG(video=3).passes(audio=False) == (Pass.CONDITIONAL, Pass.NEGATIVE)


def test_without_guidance_the_conditional_estimate_comes_back_untouched():
    x0 = estimates()
    out = Guidance(video=StreamGuidance(rescale=0.7)).combine(x0)
    assert out.video is x0[Pass.CONDITIONAL].video
    assert out.audio is x0[Pass.CONDITIONAL].audio


def test_each_stream_follows_its_own_scale():
    x0 = estimates()
    c, n = x0[Pass.CONDITIONAL], x0[Pass.NEGATIVE]
    out = CFG(video=3, audio=1).combine(x0)
    torch.testing.assert_close(out.video, n.video + 3 * (c.video - n.video))
    assert torch.equal(out.audio, c.audio)


def test_the_passes_add_up_as_published():
    x0 = estimates()
    c, n, p, q = (x0[which].video for which in Pass)
    guidance = Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3), stg_blocks=(29,))
    torch.testing.assert_close(guidance.combine(x0).video, c + 2 * (c - n) + (c - p) + 2 * (c - q))


@pytest.mark.parametrize("rescale", [0.45, 1.0])
def test_rescale_brings_back_the_deviation_of_each_sample(rescale):
    x0 = estimates()
    x0[Pass.NEGATIVE] = x0[Pass.NEGATIVE].map(
        lambda x: x * torch.tensor([1.0, 5.0]).view(-1, *[1] * (x.ndim - 1))
    )
    plain, rescaled = CFG(video=4).combine(x0).video, CFG(video=4, rescale=rescale).combine(x0).video
    for sample in range(2):
        ratio = x0[Pass.CONDITIONAL].video[sample].std() / plain[sample].std()
        torch.testing.assert_close(rescaled[sample], plain[sample] * (rescale * ratio + 1 - rescale))


def test_perturbations_name_the_streams_that_ask_for_them():
    guidance = Guidance(video=StreamGuidance(stg=1), stg_blocks=(29,))
    perturbation = guidance.perturbation(Pass.PERTURBED)
    assert perturbation.video_self_attention == (29,)
    assert perturbation.audio_self_attention == ()
    assert guidance.perturbation(Pass.APART).a2v == "all"
    assert guidance.perturbation(Pass.CONDITIONAL) == guidance.perturbation(Pass.NEGATIVE)


def test_perturbed_attention_without_blocks_is_refused():
    with pytest.raises(ValueError, match="stg_blocks"):
        Guidance(audio=StreamGuidance(stg=1))
