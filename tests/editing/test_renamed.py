"""Old public names of the editing room still work, with a warning that says the new one."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import editing
from ltx2_core.editing import Edit, Footage

FRAMES, AUDIO = torch.zeros(2, 3, 8, 8), (torch.zeros(1, 10), 8000)


@pytest.mark.parametrize(
    ("old", "new"),
    [("add_sound", "add_audio"), ("PictureReel", "FramesInMemory"), ("FileReel", "FramesInFile")],
)
def test_an_old_function_or_class_is_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated: use {new}"):
        assert getattr(editing, old) is getattr(editing, new)


def test_old_keywords_and_attributes_are_the_new_ones():
    with pytest.warns(DeprecationWarning, match=r"Footage\(sound=...\) is deprecated: use audio="):
        footage = Footage(frames=FRAMES, fps=8.0, sound=AUDIO)
    assert footage.audio is AUDIO
    size = {"frame_count": 2, "width": 8, "height": 8, "fps": 8.0, "rate": 8000}
    with pytest.warns(DeprecationWarning, match=r"Edit\((pictures|sounds)="):
        edit = Edit(pictures=lambda: iter((FRAMES,)), sounds=lambda: iter((AUDIO[0],)), **size)
    with pytest.warns(DeprecationWarning, match=r"Edit.sound is deprecated: use audio"):
        assert torch.equal(edit.sound()[0], AUDIO[0])
    assert torch.equal(edit.frames(), FRAMES)


def test_the_new_names_do_not_warn(recwarn):
    footage = Footage(frames=FRAMES, fps=8.0, audio=AUDIO)
    assert footage.part(0, 1).audio is None
    assert not recwarn.list
    with pytest.raises(AttributeError, match="no attribute 'add_noise'"):
        _ = editing.add_noise
