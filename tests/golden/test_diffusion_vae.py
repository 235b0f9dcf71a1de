"""The diffusion video VAE of LTX-2.5 gives what the official implementation gives, whole and in pieces."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.video_vae import VolumeNoise
from ltx2_core.video_vae.diffusion.attention import Masks, neighbourhood_attention
from ltx2_core.video_vae.diffusion.blocks import Block
from ltx2_core.video_vae.diffusion.decoder import DiffusionVideoDecoder
from ltx2_core.video_vae.diffusion.windows import Axis, Span

from .test_video_vae import wave

DECODED = {"atol": 2e-4, "rtol": 0}
TRACED = {"atol": 1e-4, "rtol": 0}
ATTENDED = {"atol": 1e-5, "rtol": 0}
ONE_FRAME = 1
"""A piece limit in bytes below any frame, so that pieces are single rows in time."""


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def decoder_of(golden) -> DiffusionVideoDecoder:
    return open_checkpoint(golden.path).load(Component.VIDEO_DECODER, dtype=torch.float32)


def first_tag(tensors: dict[str, Tensor]) -> str:
    """The name of the first latent that the fixture decodes."""
    return min(m[1] for name in tensors if (m := re.fullmatch(r"golden\.decode\.(.+)\.latent", name)))


def every_nth(frames: Tensor, steps: list[int]) -> Tensor:
    return frames[:, :, :: steps[0], :: steps[1], :: steps[2]]


@pytest.mark.golden("diffusion_vae")
@pytest.mark.parametrize("limit", [None, ONE_FRAME])
def test_decodes_like_the_reference(golden, limit: int | None) -> None:
    decoder, tensors, facts = decoder_of(golden), golden.tensors(), golden.sidecar
    tags = [m[1] for name in tensors if (m := re.fullmatch(r"golden\.decode\.(.+)\.latent", name))]
    assert tags
    for tag in tags:
        latent, seed = tensors[f"golden.decode.{tag}.latent"], facts["seeds"][tag]
        # ComfyUI seeds a generator, the official pipelines continue one: both draw the whole clip.
        going_on = VolumeNoise(start=torch.Generator().manual_seed(seed))
        noise = VolumeNoise(seed) if limit is None else going_on
        frames = decoder.decode(latent, noise=noise, max_piece_bytes=limit)
        assert tuple(frames.shape[3:]) == (32 * latent.shape[3], 32 * latent.shape[4])
        frames = every_nth(frames, facts["subsample_FHW"][tag])
        torch.testing.assert_close(frames, tensors[f"golden.decode.{tag}.video"], **DECODED)


@pytest.mark.golden("diffusion_vae")
@pytest.mark.parametrize("limit", [None, 60_000])
def test_several_steps_are_those_of_the_reference(golden, limit) -> None:
    tensors, decoder = golden.tensors(), decoder_of(golden)
    cases = [m for name in tensors if (m := re.fullmatch(r"golden\.(decode_(v|x0)_?(\d+))\.video", name))]
    # A note may say "the same" as another one.
    notes = [str(golden.sidecar.get(case[1], "")) for case in cases]
    if not cases:
        pytest.skip("the fixture has no such case")
    released = decoder.decoder.config
    for case, note in zip(cases, notes, strict=True):
        said = next((text for text in (note, *notes) if "decode." in text), "")
        tag = m[1] if (m := re.search(r"decode\.(\w+)", said)) else first_tag(tensors)
        steps = [int(n) for n in m.groups()] if (m := re.search(r"(\d+), (\d+), (\d+)$", said)) else [4, 7, 7]
        decoder.decoder.config = replace(released, prediction=case[2], steps=int(case[3]))
        latent, seed = tensors[f"golden.decode.{tag}.latent"], golden.sidecar["seeds"][tag]
        frames = decoder.decode(latent, noise=VolumeNoise(seed), max_piece_bytes=limit)
        torch.testing.assert_close(every_nth(frames, steps), tensors[case[0]], **DECODED)


def activations(decoder: DiffusionVideoDecoder, latent: Tensor, seed: int) -> dict[str, Tensor]:
    """Decode ``latent``, and return what each layer made of the whole clip, by its name in the fixture."""
    parts: dict[str, list[Tensor]] = {}

    def record(name: str, layer: torch.nn.Module) -> None:
        layer.register_forward_hook(lambda _, __, out: parts.setdefault(name, []).append(out.clone()))

    def record_block(name: str, block: Block) -> None:
        compute = block.compute

        def recorded(*args, **kwargs) -> Tensor:
            out = compute(*args, **kwargs)
            # The condition of the next block is added to it in place.
            parts.setdefault(name, []).append(out.clone())
            return out

        block.compute = recorded
        record(f"{name}.attn", block.attn.proj)

    network = decoder.decoder
    for name in ("conv_in", "conv_in_x_t"):
        record(name, getattr(network, name))
    for number, blocks in enumerate(network.det_stages):
        for at, block in enumerate(blocks):
            record_block(f"det{number}.{at}", block)
    for number, layer in enumerate(network.upsamples):
        record(f"up{number}", layer)
    for at, block in enumerate(network.diff_blocks):
        record_block(f"diff{at}", block)
    decoder.decode(latent, noise=VolumeNoise(seed), max_piece_bytes=1 << 40)
    last = f"up{len(network.upsamples) - 1}"
    # Each denoising block upsamples the features anew.
    parts[last] = parts[last][:1]
    made = {name: torch.cat(pieces, dim=1) for name, pieces in parts.items()}
    for number, stage in enumerate(network.config.stages):
        # Of the two frames that come from a clip's first one, the first is dropped behind the layer.
        made[f"up{number}"] = made[f"up{number}"][:, stage.strides[0] - 1 :]
    return made


@pytest.mark.golden("diffusion_vae")
def test_every_layer_gives_what_the_reference_gives(golden) -> None:
    tensors, decoder = golden.tensors(), decoder_of(golden)
    traced = {n.removeprefix("golden.trace."): t for n, t in tensors.items() if n.startswith("golden.trace.")}
    traced.pop("t_emb", None)
    if not traced:
        pytest.skip("the fixture has no such case")
    said = str(golden.sidecar.get("trace_notes", ""))
    tag = m[1] if (m := re.search(r"decode\.(\w+)", said)) else first_tag(tensors)
    made = activations(decoder, tensors[f"golden.decode.{tag}.latent"], golden.sidecar["seeds"][tag])
    time, rows, columns = golden.sidecar["trace_subsample_THW"]
    for name, expected in traced.items():
        found = made[name]
        if found.shape[2:] != expected.shape[2:]:
            found = found[:, ::time, ::rows, ::columns]
        # Ours cuts what lies behind the clip's end before the last layer, the reference behind it.
        assert found.shape[1] > 0
        torch.testing.assert_close(
            found, expected[:, : found.shape[1]], **TRACED, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.golden("diffusion_vae")
def test_the_time_is_embedded_like_the_reference(golden) -> None:
    tensors, decoder = golden.tensors(), decoder_of(golden)
    if "golden.trace.t_emb" not in tensors:
        pytest.skip("the fixture has no such case")
    embedded = decoder.decoder.t_embedder(1000.0, tensors[f"golden.decode.{first_tag(tensors)}.latent"])
    torch.testing.assert_close(embedded, tensors["golden.trace.t_emb"], **TRACED)


@pytest.mark.golden("diffusion_vae")
def test_windows_attend_like_the_reference(golden) -> None:
    tensors = golden.tensors()
    names = [m[1] for name in tensors if (m := re.fullmatch(r"golden\.(na\w*)\.q", name))]
    if not names:
        pytest.skip("the fixture has no such case")
    for name in names:
        q, k, v, out = (tensors[f"golden.{name}.{part}"] for part in ("q", "k", "v", "out"))
        kernel = re.search(r"\((\d+), ?(\d+), ?(\d+)\)", golden.sidecar[name])
        axes = tuple(
            Axis(queries=Span(0, size), first_key=0, length=size, window=min(int(n), size))
            for size, n in zip(q.shape[1:4], kernel.groups(), strict=True)
        )
        torch.testing.assert_close(neighbourhood_attention(q, k, v, axes, Masks()), out, **ATTENDED)


@pytest.mark.golden("diffusion_vae")
def test_encodes_like_the_reference(golden) -> None:
    if not golden.sidecar.get("encode"):
        pytest.skip("the fixture has no such case")
    encoder = open_checkpoint(golden.path).load(Component.VIDEO_ENCODER, dtype=torch.float32)
    for tag, case in golden.sidecar["encode"].items():
        latent = encoder.encode(wave(case["shape"], case["formula_seed"]))
        torch.testing.assert_close(latent, golden.tensors()[f"golden.encode.{tag}.latent"], **DECODED)
