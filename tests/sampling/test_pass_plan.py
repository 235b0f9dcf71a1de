"""The plan of a step: its passes, its forward passes and their order, for the library and for the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltx2_core.sampling.guidance import CFG, Guidance, Pass, StreamGuidance
from ltx2_core.sampling.pass_plan import ActiveStreams, Batching, PassCall, needed_passes, plan_passes

C, N, P, A, U = Pass
BOTH = ActiveStreams(video=True, audio=True, both=True)
STG = Guidance(video=StreamGuidance(stg=1), stg_blocks=(5, 3))
ALL = Guidance(video=StreamGuidance(cfg=3, stg=1, modality=3, identity=2), stg_blocks=(3,))


def calls(guidance: Guidance, streams: ActiveStreams = BOTH, **batching: object) -> list[PassCall]:
    return list(plan_passes(guidance, streams, Batching(**batching)).calls)


def test_one_by_one_the_perturbed_pass_runs_after_the_one_whose_blocks_it_reuses() -> None:
    assert calls(ALL) == [
        PassCall((C,), 3),
        PassCall((N,)),
        PassCall((A,)),
        PassCall((P,), 3),
        PassCall((U,)),
    ]


def test_in_a_batch_the_perturbed_pass_joins_at_its_first_perturbed_block() -> None:
    (both,) = calls(STG, size=4)
    assert both == PassCall((C, P), 3)
    assert both.whole == (C,)
    assert both.saves
    assert calls(ALL, size=2) == [PassCall((C, N), 3), PassCall((A, P), 3), PassCall((U,))]


def test_where_passes_cannot_join_the_perturbed_one_is_a_call_of_its_own() -> None:
    assert calls(ALL, size=5, joins=False) == [PassCall((C, N, A), 3), PassCall((P,), 3), PassCall((U,))]


@pytest.mark.parametrize(
    ("guidance", "forks"), [(STG, False), (replace(STG, stg_blocks=(0,)), True)], ids=["no fork", "block 0"]
)
def test_without_a_fork_every_pass_runs_from_the_first_block(guidance: Guidance, forks: bool) -> None:
    (both,) = calls(guidance, size=2, forks=forks, joins=False)
    assert both == PassCall((C, P))
    assert both.whole == (C, P)
    assert not both.saves


def test_a_pass_that_no_generated_stream_needs_is_left_out() -> None:
    guidance = Guidance(video=StreamGuidance(modality=3), audio=StreamGuidance(cfg=3))
    assert needed_passes(guidance, BOTH) == (C, N, A)
    assert needed_passes(guidance, replace(BOTH, audio=False)) == (C, A)
    assert needed_passes(guidance, ActiveStreams(video=True, audio=False, both=False)) == (C,)
    assert needed_passes(CFG(), BOTH, negative=True) == (C, N)


def test_a_step_whose_streams_are_all_skipped_has_no_passes_and_counts_those_it_saves() -> None:
    guidance = Guidance(video=StreamGuidance(cfg=3), audio=StreamGuidance(modality=3))
    part = plan_passes(guidance, BOTH, Batching(), skipped=(True, False))
    assert part.passes == (C, A)
    assert part.reused == 1
    whole = plan_passes(guidance, BOTH, Batching(), skipped=(True, True))
    assert whole.passes == ()
    assert whole.calls == ()
    assert whole.reused == 3
    frozen = replace(BOTH, audio=False)
    assert plan_passes(guidance, frozen, Batching(), skipped=(True, False), negative=True).calls == ()
