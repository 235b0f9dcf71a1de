"""A preview of a latent agrees with its decoder and stays within its share of the time."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.sampling.previews import TimeShare, false_colours, fit_previews, relative_levels


@pytest.fixture(scope="module")
def networks(tiny_set):
    file = open_checkpoint(tiny_set.checkpoint)
    parts = (Component.VIDEO_ENCODER, Component.VIDEO_DECODER, Component.AUDIO_DECODER)
    return [file.load(part, dtype=torch.float32) for part in parts]


@pytest.fixture(scope="module")
def previews(networks):
    return fit_previews(*networks)


def correlation(a, b):
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()


@torch.inference_mode()
def test_colours_are_those_of_the_decoded_frame(networks, previews):
    encoder, decoder, _ = networks
    generator = torch.Generator().manual_seed(7)
    patches = torch.rand(1, 3, 1, 3, 4, generator=generator) * 2 - 1
    clip = patches.repeat_interleave(32, dim=3).repeat_interleave(32, dim=4).expand(-1, -1, 17, -1, -1)
    latent = encoder.encode(clip)
    colours = previews.colours(latent, 2)
    assert colours.shape == (3, 4, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    frames = decoder.decode(latent)[0, :, 9:].mean(dim=1)
    decoded = frames.unflatten(2, (4, 32)).unflatten(1, (3, 32)).mean(dim=(2, 4)).movedim(0, -1)
    assert correlation(colours, decoded) > 0.9


@torch.inference_mode()
def test_levels_follow_the_decoded_audio(networks):
    """By a decoder whose latents hold the volume, unlike one of random weights."""

    def decode(latent):
        loud = latent[:, 2, :, 5] - 0.5 * latent[:, 3, :, 1] + 0.1 * latent[:, 0, :, 0].square()
        return loud.repeat_interleave(4, dim=1)[:, None, 3:, None].expand(-1, 2, -1, 64) - 4

    latent = torch.randn(1, 8, 65, 16, generator=torch.Generator().manual_seed(9))
    mel = decode(latent)[0, :, 1:].unflatten(1, (64, 4)).mean(dim=(0, 2, 3))
    levels = fit_previews(*networks[:2], decode).levels(latent)
    assert levels.shape == (65,)
    assert levels.min() >= 0
    assert levels.max() <= 1
    assert correlation(levels[1:], mel) > 0.9


def test_without_the_autoencoders_shapes_and_changes_are_still_visible():
    video, audio = torch.zeros(1, 128, 3, 4, 6), torch.zeros(1, 8, 9, 16)
    video[0, :, 1, :, 3:] = 1
    audio[0, :, 6] = 1
    colours = false_colours(video, 1)
    assert colours.shape == (4, 6, 3)
    assert torch.allclose(colours[:, :3], colours[:1, :1])
    assert not torch.allclose(colours[:, 3:], colours[:1, :1])
    assert relative_levels(audio).argmax() == 6
    assert not relative_levels(torch.zeros(1, 8, 9, 16)).any()


@pytest.mark.parametrize(("cost", "runs"), [(0.01, 100), (0.1, 20), (1.0, 2)])
def test_previews_take_no_more_than_their_share_of_the_time(cost, runs):
    now = [0.0]
    share, count = TimeShare(0.02, clock=lambda: now[0]), 0
    for _ in range(100):
        now[0] += 1.0
        if share.due:
            count += 1
            with share.spend():
                now[0] += cost
    assert abs(count - runs) <= 1
