"""Input audio that is generated in some seconds and preserved elsewhere."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.run.audio_regions import FADE_S, with_regenerated
from ltx2_core.run.request import Request

RATE = 16_000


def test_new_audio_fades_into_the_region_and_leaves_other_samples_as_they_are() -> None:
    preserved = torch.rand(2, 4 * RATE)
    regenerated = torch.zeros(100, dtype=torch.bool)
    regenerated[50:75] = True
    mixed = with_regenerated(preserved, torch.ones(2, 3 * RATE), RATE, regenerated)
    changed = (mixed != preserved).any(dim=0).nonzero().flatten() / RATE
    assert 1.9 <= float(changed.min()) <= 2.0
    assert 2.9 <= float(changed.max()) <= 3.0
    inside = slice(round((2 + FADE_S) * RATE), round((2.9 - FADE_S) * RATE))
    assert torch.equal(mixed[:, inside], torch.ones_like(mixed[:, inside]))


def test_the_clip_preserves_input_audio_outside_of_its_regions() -> None:
    pipeline = LTX2Pipeline.embedded(device="cpu", dtype=torch.float32)
    voice = (torch.rand(1, 2 * RATE) - 0.5, RATE)
    size = {"width": 64, "height": 64, "num_frames": 17, "fps": 8.0, "steps": 1, "cfg": 1.0, "seed": 1}
    plain = pipeline("a ball", audio=voice, **size)
    clip = pipeline("a ball", audio=voice, audio_regions=[(1.0, 1.5)], **size)
    assert plain.latents.audio is not None
    assert clip.latents.audio is not None
    differs = (plain.latents.audio != clip.latents.audio).any(dim=3).any(dim=1)[0].nonzero().flatten()
    assert 20 <= int(differs.min()) <= int(differs.max()) <= 40
    waveform, rate = clip.audio()
    assert (rate, waveform.shape[1]) == (RATE, round(17 / 8 * RATE))
    assert torch.equal(waveform[0, : round(0.95 * RATE)], voice[0][0, : round(0.95 * RATE)])
    assert not torch.equal(waveform[0, RATE : round(1.4 * RATE)], voice[0][0, RATE : round(1.4 * RATE)])
    assert Request.from_settings({**clip.request.settings(), "audio": "a.wav"}).audio_regions == ((1.0, 1.5),)


@pytest.mark.parametrize(
    ("regions", "message"), [([(2, 1)], "audio_regions: region 2-1"), ([(0, 1)], "give audio too")]
)
def test_regions_that_are_none_or_lack_audio_are_refused(regions, message) -> None:
    with pytest.raises(ValueError, match=message):
        Request(prompt="x", audio_regions=regions)


def test_a_region_behind_the_end_of_the_clip_is_refused_before_anything_is_loaded() -> None:
    pipeline = LTX2Pipeline.embedded(device="cpu", dtype=torch.float32)
    request = Request(
        prompt="x",
        audio=(torch.zeros(1, RATE), RATE),
        audio_regions=[(1, 2), (100, 200)],
        num_frames=17,
        fps=8.0,
    )
    with pytest.raises(
        ValueError, match=r"audio_regions: 100-200 is outside of the clip, which lasts 2\.125 s"
    ):
        pipeline.check(pipeline.resolve(request))
