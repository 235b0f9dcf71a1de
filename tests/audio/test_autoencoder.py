"""The audio autoencoder: key names, lengths, causality."""

import pytest
import torch

from ltx2_core.audio import AudioDecoder, AudioEncoder
from ltx2_core.config import AudioVAEConfig

TINY = AudioVAEConfig(channels=4, num_res_blocks=1, z_channels=3, mel_bins=16)


def tiny(cls, **options):
    torch.manual_seed(0)
    module = cls(TINY, **options)
    with torch.no_grad():
        module.per_channel_statistics.get_buffer("mean-of-means").normal_()
        module.per_channel_statistics.get_buffer("std-of-means").uniform_(0.5, 2)
    return module.eval().requires_grad_(False)


def test_released_size_has_the_keys_and_values_of_the_released_checkpoint() -> None:
    encoder, decoder = (
        AudioEncoder(AudioVAEConfig(), device="meta"),
        AudioDecoder(AudioVAEConfig(), device="meta"),
    )
    sizes = {}
    for module, values, tensors in ((encoder, 21_333_264, 44), (decoder, 31_915_394, 56)):
        state = module.state_dict()
        assert sum(t.numel() for t in state.values()) == values
        assert len([n for n in state if not n.startswith("per_channel_statistics.")]) == tensors
        sizes |= {name: tuple(t.shape) for name, t in state.items()}
    assert len(sizes) == 102
    assert sizes["encoder.down.0.downsample.conv.weight"] == (128, 128, 3, 3)
    assert sizes["encoder.down.2.block.0.nin_shortcut.conv.weight"] == (512, 256, 1, 1)
    assert sizes["encoder.conv_out.conv.weight"] == (16, 512, 3, 3)
    assert sizes["decoder.up.2.upsample.conv.conv.bias"] == (512,)
    assert sizes["decoder.up.0.block.0.conv1.conv.weight"] == (128, 256, 3, 3)
    assert (
        sizes["per_channel_statistics.mean-of-means"]
        == sizes["per_channel_statistics.std-of-means"]
        == (128,)
    )


def test_mel_frames_become_a_quarter_as_many_latents_rounded_up() -> None:
    encoder = tiny(AudioEncoder)
    for frames in range(1, 18):
        assert encoder(torch.randn(1, 2, frames, 16)).shape == (1, 3, -(-frames // 4), 4)


def test_latents_become_four_mel_frames_each_but_one_for_the_first() -> None:
    decoder = tiny(AudioDecoder)
    for latents in range(1, 8):
        assert decoder(torch.randn(1, 3, latents, 4)).shape == (1, 2, 4 * latents - 3, 16)


@pytest.mark.parametrize("frames", [1, 4, 5, 9, 12])
def test_a_latent_does_not_depend_on_later_mel_frames(frames) -> None:
    encoder, mel = tiny(AudioEncoder), torch.randn(1, 2, 16, 16)
    start = encoder(mel[:, :, :frames])
    torch.testing.assert_close(start, encoder(mel)[:, :, : start.shape[2]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_a_mel_frame_does_not_depend_on_later_latents(latents) -> None:
    decoder, latent = tiny(AudioDecoder), torch.randn(1, 3, 6, 4)
    start = decoder(latent[:, :, :latents])
    torch.testing.assert_close(start, decoder(latent)[:, :, : start.shape[2]], atol=1e-5, rtol=0)


def test_statistics_belong_to_a_channel_and_bin_in_token_order() -> None:
    statistics = AudioEncoder(TINY).per_channel_statistics
    statistics.get_buffer("mean-of-means").copy_(torch.arange(12))
    latent = torch.zeros(1, 3, 2, 4)
    assert statistics.un_normalize(latent)[0, 2, :, 1].tolist() == [9, 9]
    torch.testing.assert_close(statistics.normalize(statistics.un_normalize(latent + 1)), latent + 1)


def test_bfloat16_weights_give_the_float32_result_of_the_same_values_even_inside_autocast() -> None:
    for cls, shape in ((AudioEncoder, (1, 2, 9, 16)), (AudioDecoder, (1, 3, 3, 4))):
        stored, x = tiny(cls).bfloat16(), torch.randn(shape)
        exact = cls(TINY)
        exact.load_state_dict(stored.state_dict())
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            result = stored(x)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, exact(x).detach(), atol=0, rtol=0)
        assert {t.dtype for t in stored.state_dict().values()} == {torch.bfloat16}
