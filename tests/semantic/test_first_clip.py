"""The first clip that a reader of the README makes is what its prompt says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import read_video
from ltx2_core.training.world import measure

ROOT = Path(__file__).resolve().parents[2]
NEAR_S = 0.06
"""How far a knock may be from its bounce: one and a half frames."""


def test_every_knock_of_the_first_clip_belongs_to_a_bounce_and_every_bounce_has_one(tmp_path) -> None:
    command = re.search(r"/ltx2 (generate [^\n]*)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert command is not None
    words = shlex.split(command[1])
    out = tmp_path / words[-1]
    result = CliRunner().invoke(main, [*words[:-1], str(out)])
    assert result.exit_code == 0, result.output
    clip = read_video(out)
    sound = clip.audio()
    assert sound is not None
    found = measure(clip.read() * 2 - 1, *sound, fps=clip.fps)
    assert (found.background, found.colours, found.kinds, found.motion) == (
        "blue",
        ("red",),
        ("circle",),
        "bounce",
    )
    assert found.audio is not None
    assert found.audio.sound == "knock"
    pairs = list(zip(found.contacts_s, found.onsets_s, strict=True))
    assert len(pairs) >= 2
    assert all(abs(contact - onset) < NEAR_S for contact, onset in pairs), pairs
