"""Windows that are made by a kernel give the frames of plain operations, however the clip is cut."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ltx2_core.kernels.language import interpreted
from ltx2_core.video_vae import SpaceTiles, VideoVAE, field_of_view
from ltx2_core.video_vae.windows import Windows

LATENT = torch.randn(2, 3, 9, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
EXACT = {"atol": 1e-10, "rtol": 1e-10}


class EverywhereWindows(Windows):
    """Also on a CPU, where the formula takes the place of the kernel."""

    def takes(self, x: Tensor) -> bool:
        return True


def with_windows(vae: VideoVAE, *, kernels: bool = False) -> VideoVAE:
    vae = copy.deepcopy(vae)
    vae.windows = EverywhereWindows(kernels=kernels)
    return vae


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize("causal", [False, True])
def test_any_chunks_and_pieces_give_the_frames_of_plain_operations(vaes, generation, causal):
    vae = with_windows(vaes[generation])
    with torch.no_grad():
        expected = vaes[generation].decode(LATENT, causal=causal)
        for limit in (1, 2**15, 2**40):
            found = vae.decode(LATENT, causal=causal, max_piece_bytes=limit)
            torch.testing.assert_close(found, expected, **EXACT)
        chunks = LATENT.split([1, 0, 3, 0, 4, 1], dim=2)
        torch.testing.assert_close(
            torch.cat([*vae.decode_stream(iter(chunks), causal=causal)], dim=2), expected, **EXACT
        )


@pytest.mark.slow
@pytest.mark.skipif(not interpreted(), reason="the kernel is interpreted")
def test_the_kernel_gives_the_frames_of_plain_operations(vaes):
    plain = copy.deepcopy(vaes["2.0"]).float()
    vae, latent = with_windows(plain, kernels=True), LATENT[:1, :, :3, :, :2].float()
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(latent), plain.decode(latent), atol=1e-4, rtol=1e-4)
    assert vae.windows.problem is None


def test_tiles_give_the_frames_of_plain_operations(vaes):
    plain = vaes["2.3"]
    latent = torch.randn(1, 3, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tiles = SpaceTiles(rows=2, columns=1, halo=field_of_view(plain.config))
    with torch.no_grad():
        found = torch.cat([*with_windows(plain).decode_tiles(latent, tiles)], dim=2)
        torch.testing.assert_close(found, plain.decode(latent), **EXACT)


def test_a_piece_that_runs_out_of_memory_is_computed_again(vaes, monkeypatch):
    plain, vae = vaes["2.0"], with_windows(vaes["2.0"])
    make, calls = vae.windows.make, []

    def scarce(x: Tensor, *rest, **options):
        calls.append(x.shape[2])
        if len(calls) in (5, 6, 9, 10):
            raise torch.cuda.OutOfMemoryError("out of memory")
        return make(x, *rest, **options)

    monkeypatch.setattr(vae.windows, "make", scarce)
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(LATENT), plain.decode(LATENT), **EXACT)
    assert len(calls) > 10


def test_a_cpu_uses_plain_operations_whether_or_not_the_decoder_is_trained():
    assert not Windows().takes(LATENT)
    with torch.no_grad():
        assert not Windows().takes(LATENT)
