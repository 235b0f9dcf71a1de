"""Two processes, each with a part of the tokens, compute what one does, with guides and perturbations too."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltx2_core.transformer import GuideWeights, Perturbation, Perturbations, Runner
from ltx2_core.transformer.shards import Shards

sys.path.insert(0, str(Path(__file__).parents[1]))

from processes import run_processes


def velocities(model, cases, sharded):
    run = Runner(model, shards=Shards() if sharded else None)
    with torch.inference_mode():
        return [list(run(video, audio, skip, rope=rope)) for video, audio, skip, rope in cases]


def cases_of(model, streams):
    video, audio = (make(model.config) for make in streams)
    tokens = video.tokens.shape[1]
    image = video.timesteps.repeat(1, tokens)
    image[:, :5] = 0
    skip = Perturbations((Perturbation(video_self_attention=[1], v2a=[0]), Perturbation(a2v="all")))
    mask = torch.rand(2, tokens, tokens, generator=torch.Generator().manual_seed(5))
    guides = GuideWeights((torch.tensor([0.5, 0.5]), torch.rand(3)), between=0.5)
    marks = torch.zeros(2, tokens, 1)
    marks[:, :3] = 1
    rope = model.rope_tables(video.positions, audio.positions)
    return [
        (video, audio, None, None),
        (replace(video, timesteps=image, keyframes=marks), audio, skip, rope),
        (replace(video, attention_mask=mask), audio, None, rope),
        (replace(video, attention_mask=guides), audio, None, rope),
        (replace(video, enabled=False), audio, None, rope),
    ]


def test_two_processes_compute_what_one_does(model, streams):
    cases = cases_of(model, streams)
    expected = velocities(model, cases, False)
    for rank in run_processes(2, velocities, model, cases, True):
        for one, of_one in zip(rank, expected, strict=True):
            for a, e in zip(one, of_one, strict=True):
                assert (a is None) == (e is None)
                if e is not None:
                    torch.testing.assert_close(a, e, rtol=0, atol=1e-5)


def test_parts_cover_all_tokens_once(monkeypatch):
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(Shards, "count", count)
        parts = [Shards().part(29, rank) for rank in range(count)]
        assert [n for part in parts for n in range(29)[part]] == list(range(29))


def refused(model, video, audio):
    try:
        Runner(model, shards=Shards())(video, audio)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("count", "message"), [(3, "heads cannot be divided among 3"), (5, "4 tokens, too few")]
)
def test_what_cannot_be_divided_is_refused(model23, streams, count, message):
    video, audio = (make(model23.config) for make in streams)
    assert all(message in said for said in run_processes(count, refused, model23, video, audio))
