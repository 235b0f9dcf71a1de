"""Schedules: published rows, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.sampling.schedules import (
    DISTILLED_SIGMAS,
    DISTILLED_STAGE2_SIGMAS,
    FIXED_SIGMAS,
    as_sigmas,
    ltxv_sigmas,
    parse_sigmas,
    partial_sigmas,
    validate_sigmas,
)

PUBLISHED = {
    (20, 4096): "1 .991467 .982119 .971835 .960465 .947829 .933702 .917805 .899781 .879175 .855387 .827620 "
    ".794783 .755350 .707109 .646741 .569013 .465181 .319439 .1 0",
    (20, 3520): "1 .990095 .979279 .967421 .954363 .939913 .923835 .905839 .885559 .862531 .836155 .805645 "
    ".769946 .727611 .676600 .613942 .535134 .433006 .295414 .1 0",
    (20, 1536): "1 .982552 .963835 .943705 .921996 .898514 .873034 .845289 .814962 .781677 .744976 .704308 "
    ".658990 .608179 .550809 .485525 .410567 .323613 .221532 .1 0",
    (20, 8160): "1 .996090 .991760 .986939 .981537 .975444 .968518 .960574 .951371 .940584 .927765 .912281 "
    ".893205 .869121 .837761 .795239 .734307 .639705 .472873 .1 0",
    (15, 8160): "1 .993491 .986015 .977340 .967151 .955015 .940314 .922140 .899096 .868923 .827707 .768028 "
    ".673897 .503378 .1 0",
    (8, 4096): "1 .965712 .921875 .863856 .783445 .664579 .471003 .1 0",
}


def close(sigmas, expected, atol=1e-6):
    torch.testing.assert_close(sigmas, torch.as_tensor(expected, dtype=torch.float32), atol=atol, rtol=0)


@pytest.mark.parametrize(("steps", "tokens"), PUBLISHED)
def test_the_ltx_schedule_gives_the_published_rows(steps, tokens):
    close(ltxv_sigmas(steps, tokens), [float(word) for word in PUBLISHED[steps, tokens].split()])


def test_the_default_is_4096_tokens_and_one_step_is_not_stretched():
    assert torch.equal(ltxv_sigmas(20), ltxv_sigmas(20, 4096))
    assert ltxv_sigmas(1).tolist() == [1, 0]


@given(steps=st.integers(1, 100), tokens=st.integers(1, 2_000_000), terminal=st.floats(0.01, 0.9))
def test_the_ltx_schedule_falls_to_its_terminal_for_any_clip(steps, tokens, terminal):
    sigmas = ltxv_sigmas(steps, tokens, terminal=terminal)
    validate_sigmas(sigmas)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == 1
    if steps > 1:
        assert sigmas[-2].item() == pytest.approx(terminal, abs=1e-6)


def test_without_stretch_the_shifted_uniform_steps_remain():
    u = torch.linspace(1, 0, 9, dtype=torch.float64)[:-1]
    odds = torch.tensor(2.05, dtype=torch.float64).exp()
    close(ltxv_sigmas(8, stretch=False), [*(odds / (odds + 1 / u - 1)).tolist(), 0])


def test_the_fixed_lists_are_valid_and_the_second_stage_is_the_end_of_the_first():
    for sigmas in FIXED_SIGMAS.values():
        validate_sigmas(sigmas)
    assert torch.equal(DISTILLED_STAGE2_SIGMAS, DISTILLED_SIGMAS[-4:])
    assert torch.equal(FIXED_SIGMAS["temporal_round"], DISTILLED_SIGMAS[4:])


@pytest.mark.parametrize(("steps", "denoise"), [(4, 1.0), (4, 0.5), (3, 0.7), (1, 0.25)])
def test_partial_denoising_uses_the_last_steps_of_a_longer_schedule(steps, denoise):
    sigmas = partial_sigmas(ltxv_sigmas, steps, denoise)
    assert torch.equal(sigmas, ltxv_sigmas(int(steps / denoise))[-(steps + 1) :])
    assert len(sigmas) == steps + 1


def test_written_sigmas_may_use_exponents_brackets_and_any_separator():
    close(parse_sigmas("[1.0, .725;4e-1\n0]"), [1, 0.725, 0.4, 0], atol=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no step"),
        ("0", "has no step"),
        ("1, x, 0", "'x'"),
        ("1.5, 0", "outside"),
        ("1, -0.5, 0", "outside"),
        ("1, nan, 0", "outside"),
        ("0.5, 0.7, 0", "does not fall"),
        ("1, 0.5, 0.5, 0", "does not fall"),
        ("1, 0, 0", "does not fall"),
    ],
)
def test_bad_sigmas_are_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        parse_sigmas(text)


def test_only_a_part_of_a_split_schedule_may_end_above_zero():
    validate_sigmas(torch.tensor([1, 0.5]), partial=True)
    with pytest.raises(ValueError, match="append 0"):
        validate_sigmas(torch.tensor([1, 0.5]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ltxv_sigmas(0), "steps=0"),
        (lambda: ltxv_sigmas(8, 0), "tokens=0"),
        (lambda: ltxv_sigmas(8, terminal=1.0), "terminal=1"),
        (lambda: partial_sigmas(ltxv_sigmas, 4, 0), "denoise=0"),
        (lambda: as_sigmas([]), "has no step"),
    ],
)
def test_impossible_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
