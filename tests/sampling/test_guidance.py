"""Guidance: which passes a step needs and how they are combined."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.sampling.guidance import (
    CFG,
    Guidance,
    GuidanceSchedule,
    Nag,
    Pass,
    StreamGuidance,
    stg_blocks_of,
)
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
        (Guidance(audio=StreamGuidance(identity=3)), [Pass.CONDITIONAL, Pass.UNREFERENCED]),
        (Guidance(video=StreamGuidance(cfg_star=True, apg_eta=0.0)), [Pass.CONDITIONAL]),
        (Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3, identity=1), stg_blocks=(1,)), list(Pass)),
    ],
)
def test_each_neutral_value_saves_its_pass(guidance, passes):
    assert list(guidance.passes()) == passes


def test_a_stream_that_is_not_generated_needs_no_pass():
    assert CFG(video=3).passes(video=False) == (Pass.CONDITIONAL,)
    assert CFG(video=3).passes(audio=False) == (Pass.CONDITIONAL, Pass.NEGATIVE)


def test_without_guidance_the_conditional_estimate_is_returned():
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
    c, n, p, q, r = (x0[which].video for which in Pass)
    guidance = Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3, identity=4), stg_blocks=(29,))
    expected = c + 2 * (c - n) + (c - p) + 2 * (c - q) + 4 * (c - r)
    torch.testing.assert_close(guidance.combine(x0).video, expected)


@pytest.mark.parametrize("rescale", [0.45, 1.0])
def test_rescale_restores_the_deviation_of_each_sample(rescale):
    x0 = estimates()
    x0[Pass.NEGATIVE] = x0[Pass.NEGATIVE].map(
        lambda x: x * torch.tensor([1.0, 5.0]).view(-1, *[1] * (x.ndim - 1))
    )
    plain, rescaled = CFG(video=4).combine(x0).video, CFG(video=4, rescale=rescale).combine(x0).video
    for sample in range(2):
        ratio = x0[Pass.CONDITIONAL].video[sample].std() / plain[sample].std()
        torch.testing.assert_close(rescaled[sample], plain[sample] * (rescale * ratio + 1 - rescale))


def test_perturbations_name_the_streams_that_use_them():
    guidance = Guidance(video=StreamGuidance(stg=1), stg_blocks=(29,))
    perturbation = guidance.perturbation(Pass.PERTURBED)
    assert perturbation.video_self_attention == (29,)
    assert perturbation.audio_self_attention == ()
    assert guidance.perturbation(Pass.APART).a2v == "all"
    assert guidance.perturbation(Pass.CONDITIONAL) == guidance.perturbation(Pass.NEGATIVE)


def test_perturbed_attention_without_blocks_is_refused():
    with pytest.raises(ValueError, match="stg_blocks"):
        Guidance(audio=StreamGuidance(stg=1))


def dot(a, b):
    return (a * b).flatten(1).sum(dim=1)[:, None, None, None, None]


def test_cfg_star_subtracts_the_negative_estimate_that_fits_best():
    x0 = estimates()
    c, n = x0[Pass.CONDITIONAL].video, x0[Pass.NEGATIVE].video
    out = Guidance(video=StreamGuidance(cfg=3, cfg_star=True)).combine(x0).video
    torch.testing.assert_close(out, c + 2 * (c - n * dot(c, n) / dot(n, n)))
    same = {**x0, Pass.NEGATIVE: x0[Pass.CONDITIONAL].map(lambda t: 0.5 * t)}
    torch.testing.assert_close(Guidance(video=StreamGuidance(cfg=3, cfg_star=True)).combine(same).video, c)


def test_projected_guidance_drops_the_part_parallel_to_the_estimate():
    x0 = estimates()
    c, n = x0[Pass.CONDITIONAL].video, x0[Pass.NEGATIVE].video
    update = Guidance(video=StreamGuidance(cfg=2, apg_eta=0.0)).combine(x0).video - c
    torch.testing.assert_close(dot(update, c), torch.zeros(2, 1, 1, 1, 1), atol=2e-3, rtol=0)
    torch.testing.assert_close(update, c - n - dot(c - n, c) / dot(c, c) * c)
    plain = Guidance(video=StreamGuidance(cfg=2, apg_eta=1.0)).combine(x0).video
    torch.testing.assert_close(plain, 2 * c - n)


def test_projected_guidance_shortens_long_updates_of_each_sample():
    x0 = estimates()
    x0[Pass.NEGATIVE] = x0[Pass.CONDITIONAL].map(
        lambda x: x + torch.tensor([1e-3, 1.0]).view(-1, *[1] * (x.ndim - 1))
    )
    c = x0[Pass.CONDITIONAL].video
    update = Guidance(video=StreamGuidance(cfg=2, apg_threshold=5.0)).combine(x0).video - c
    torch.testing.assert_close(update[0], torch.full_like(c[0], -1e-3), atol=1e-6, rtol=0)
    assert update[1].norm() == pytest.approx(5.0, rel=1e-4)


def test_outside_its_range_of_sigma_guidance_costs_nothing():
    guidance = Guidance(video=StreamGuidance(cfg=3), from_sigma=0.909375, to_sigma=0.421875)
    sigmas = torch.tensor([1.0, 0.909375, 0.725, 0.421875, 0.2]).tolist()
    counts = [len(guidance.at(sigma).passes()) for sigma in sigmas]
    assert counts == [1, 2, 2, 2, 1]
    assert guidance.passes() == (Pass.CONDITIONAL, Pass.NEGATIVE)


def test_a_schedule_takes_the_entry_above_the_step():
    strong, weak = CFG(video=6), CFG(audio=2)
    schedule = GuidanceSchedule(((0.9, weak), (0.4, Guidance()), (0.99, strong)))
    assert [schedule.at(sigma) for sigma in (1.0, 0.95, 0.9, 0.5, 0.4, 0.1)] == [
        strong,
        strong,
        weak,
        weak,
        Guidance(),
        Guidance(),
    ]
    assert schedule.passes() == (Pass.CONDITIONAL, Pass.NEGATIVE)


def test_the_perturbed_block_is_the_published_one_and_in_proportion_elsewhere():
    assert stg_blocks_of(48, "2.0") == (29,)
    assert stg_blocks_of(48, "2.3") == stg_blocks_of(48, "2.5") == (28,)
    assert stg_blocks_of(2, "2.3") == (1,)
    assert stg_blocks_of(1, "2.3") == (0,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StreamGuidance(cfg=-1), "cfg=-1"),
        (lambda: StreamGuidance(stg=float("nan")), "stg=nan"),
        (lambda: StreamGuidance(rescale=2), "rescale=2"),
        (lambda: StreamGuidance(apg_threshold=-1), "apg_threshold"),
        (lambda: Guidance(from_sigma=0.2, to_sigma=0.5), "to_sigma"),
        (lambda: GuidanceSchedule(()), "entries"),
        (lambda: GuidanceSchedule(((0.5, Guidance()), (0.5, Guidance()))), "different sigmas"),
        (lambda: Nag(scale=0.5), "scale"),
        (lambda: Nag(alpha=2.0), "alpha"),
    ],
)
def test_scales_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
