"""Streaming is exact: however a clip is cut, the result is that of the whole clip."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltx2_core.video_vae import VideoVAE

EXACT = {"atol": 1e-10, "rtol": 1e-10}
"""For float64: room for another order of sums in another kernel, none for another formula."""

LATENT = torch.randn(1, 3, 9, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
FRAMES = torch.randn(1, 3, 33, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
NO_LIMIT = 2**40
Vaes = dict[str, VideoVAE]
Decoded = dict[tuple[str, bool], Tensor]
Encoded = dict[str, Tensor]


@pytest.fixture(scope="module")
def decoded(vaes: Vaes) -> Decoded:
    """LATENT decoded in one piece, by generation and causality."""
    return {
        (name, causal): vae.decode(LATENT, causal=causal, max_piece_bytes=NO_LIMIT)
        for name, vae in vaes.items()
        for causal in (False, True)
    }


@pytest.fixture(scope="module")
def encoded(vaes: Vaes) -> Encoded:
    """FRAMES encoded in one piece, by generation."""
    return {name: vae.encode(FRAMES, max_piece_bytes=NO_LIMIT) for name, vae in vaes.items()}


GENERATIONS = ["2.0", "2.3"]
generations = st.sampled_from(GENERATIONS)
EXAMPLES = [10, pytest.param(60, marks=pytest.mark.slow)]
limits = st.sampled_from([1, 2**14, 2**16, 2**18, NO_LIMIT])


@st.composite
def cuts(draw: st.DrawFn, whole: Tensor) -> list[Tensor]:
    """The clip in chunks of any lengths, some of them empty."""
    length = whole.shape[2]
    places = sorted(draw(st.lists(st.integers(0, length), max_size=length)))
    return [whole[:, :, a:b] for a, b in zip([0, *places], [*places, length], strict=True)]


@given(generations, st.booleans(), cuts(LATENT), limits)
def decoded_in_chunks(
    vaes: Vaes,
    decoded: Decoded,
    name: str,
    causal: bool,
    chunks: list[Tensor],
    limit: int,
) -> None:
    pieces = list(vaes[name].decode_stream(iter(chunks), causal=causal, max_piece_bytes=limit))
    assert all(piece.shape[2] for piece in pieces)
    torch.testing.assert_close(torch.cat(pieces, dim=2), decoded[name, causal], **EXACT)


@given(generations, cuts(FRAMES), limits)
def encoded_in_chunks(vaes: Vaes, encoded: Encoded, name: str, chunks: list[Tensor], limit: int) -> None:
    pieces = list(vaes[name].encode_stream(iter(chunks), max_piece_bytes=limit))
    torch.testing.assert_close(torch.cat(pieces, dim=2), encoded[name], **EXACT)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_decoding_in_any_chunks_equals_decoding_the_whole(
    vaes: Vaes, decoded: Decoded, examples: int
) -> None:
    settings(max_examples=examples, deadline=None)(decoded_in_chunks)(vaes, decoded)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_encoding_in_any_chunks_equals_encoding_the_whole(
    vaes: Vaes, encoded: Encoded, examples: int
) -> None:
    settings(max_examples=examples, deadline=None)(encoded_in_chunks)(vaes, encoded)


@pytest.mark.parametrize("name", GENERATIONS)
def test_whole_results_do_not_depend_on_the_piece_limit(
    vaes: Vaes, decoded: Decoded, encoded: Encoded, name: str
) -> None:
    vae = vaes[name]
    torch.testing.assert_close(vae.decode(LATENT, max_piece_bytes=1), decoded[name, False], **EXACT)
    torch.testing.assert_close(vae.encode(FRAMES, max_piece_bytes=1), encoded[name], **EXACT)


@pytest.mark.parametrize("name", GENERATIONS)
@pytest.mark.parametrize("size", [(2, 2), (3, 5)], ids=["2x2", "3x5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pieces_of_any_length_have_the_same_bits(vaes: Vaes, name: str, size: tuple[int, int], dtype) -> None:
    """Whole clips of these sizes are above what PyTorch leaves to oneDNN, and their pieces are below it."""
    vae = copy.deepcopy(vaes[name]).to(dtype)
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(1, 3, 9, *size, generator=generator).to(dtype)
    frames = torch.randn(1, 3, 33, *(32 * edge for edge in size), generator=generator).to(dtype)
    with torch.inference_mode():
        decoded = vae.decode(latent, max_piece_bytes=NO_LIMIT)
        encoded = vae.encode(frames, max_piece_bytes=NO_LIMIT)
        for limit in (1, 2**15, 2**18):
            assert torch.equal(vae.decode(latent, max_piece_bytes=limit), decoded)
            assert torch.equal(vae.encode(frames, max_piece_bytes=limit), encoded)


@pytest.mark.parametrize("name", GENERATIONS)
def test_two_streams_through_one_decoder_do_not_interfere(vaes: Vaes, decoded: Decoded, name: str) -> None:
    vae = vaes[name]
    other = LATENT.flip(2)
    streams = [vae.decode_stream(z, max_piece_bytes=1) for z in (LATENT, other)]
    pairs = list(zip(*streams, strict=True))
    first, second = (torch.cat(pieces, dim=2) for pieces in zip(*pairs, strict=True))
    torch.testing.assert_close(first, decoded[name, False], **EXACT)
    torch.testing.assert_close(second, vae.decode(other, max_piece_bytes=NO_LIMIT), **EXACT)


def test_the_causal_decoder_emits_frames_with_every_latent(vaes: Vaes) -> None:
    lengths: list[int] = []
    read_latents = 0

    def latents() -> Iterator[Tensor]:
        nonlocal read_latents
        for latent in LATENT.split(1, dim=2):
            read_latents += 1
            yield latent

    for piece in vaes["2.3"].decode_stream(latents(), causal=True, max_piece_bytes=NO_LIMIT):
        lengths.append(piece.shape[2])
        assert read_latents <= len(lengths) + 1, "only one chunk is read ahead"
    assert lengths == [1] + [8] * 8


def test_a_latent_does_not_depend_on_later_frames(vaes: Vaes, encoded: Encoded) -> None:
    changed = FRAMES.clone()
    changed[:, :, 17:] = 0
    latent = vaes["2.0"].encode(changed)
    torch.testing.assert_close(latent[:, :, :3], encoded["2.0"][:, :, :3], **EXACT)
    assert (latent[:, :, 3] - encoded["2.0"][:, :, 3]).abs().max() > 1e-3


def test_the_decoder_looks_ahead_unless_causal(vaes: Vaes, decoded: Decoded) -> None:
    changed = LATENT.clone()
    changed[:, :, -1] += 1
    for causal in (False, True):
        frames = vaes["2.0"].decode(changed, causal=causal)
        before_last = (frames - decoded["2.0", causal])[:, :, : 8 * 7 + 1]
        assert bool((before_last != 0).any()) is not causal


def test_gradients_do_not_depend_on_the_piece_limit(vaes: Vaes) -> None:
    vae = copy.deepcopy(vaes["2.0"]).requires_grad_(True)
    gradients = []
    for limit in (1, NO_LIMIT):
        vae.zero_grad()
        latent = vae.encode(FRAMES[:, :, :9], max_piece_bytes=limit)
        vae.decode(latent, max_piece_bytes=limit).square().mean().backward()
        gradients.append(vae.encoder.conv_in.conv.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], **EXACT)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that were created by operations and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[object, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {p: entry for p, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def peak_bytes(run: Iterator[Tensor]) -> int:
    gc.collect()
    with LiveBytes() as live:
        for piece in run:
            del piece
    return live.peak


@pytest.mark.parametrize("name", GENERATIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_memory_of_decoding_does_not_grow_with_the_clip(vaes: Vaes, name: str, causal: bool) -> None:
    def peak(latents: int) -> int:
        clip = (LATENT[:, :, :1] for _ in range(latents))
        return peak_bytes(vaes[name].decode_stream(clip, causal=causal, max_piece_bytes=2**16))

    assert peak(30) <= 1.02 * peak(15)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATIONS)
def test_the_piece_limit_bounds_the_memory_of_a_clip_passed_whole(vaes: Vaes, name: str) -> None:
    def peak(latents: int, limit: int) -> int:
        clip = LATENT[:, :, :1].expand(-1, -1, latents, -1, -1)
        return peak_bytes(vaes[name].decode_stream(clip, max_piece_bytes=limit))

    assert peak(60, 2**14) <= 1.02 * peak(30, 2**14)
    assert peak(30, NO_LIMIT) > 3 * peak(30, 2**14)


def test_memory_of_encoding_does_not_grow_with_the_clip(vaes: Vaes) -> None:
    def peak(chunks: int) -> int:
        clip = (FRAMES[:, :, : 8 if i else 9] for i in range(chunks))
        return peak_bytes(vaes["2.0"].encode_stream(clip, max_piece_bytes=2**16))

    assert peak(8) <= 1.02 * peak(4)
