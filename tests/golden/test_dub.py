"""The reference audio of a dub has the tokens and the positions of the official pipeline."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.patchify import patchify_audio
from ltx2_core.conditioning.reference import reference_audio_positions


@pytest.mark.golden("numbers_ltx25")
def test_reference_audio_has_the_tokens_and_the_negative_times_of_the_reference(golden) -> None:
    tensors = golden.tensors()
    latent = tensors["golden.dub.latent"]
    assert torch.equal(patchify_audio(latent), tensors["golden.dub.tokens"])
    positions = reference_audio_positions(latent.shape[2])
    torch.testing.assert_close(positions.float(), tensors["golden.dub.positions"], rtol=0, atol=1e-6)
    assert positions.max() < 0
