"""Ways to run on a GPU, without one: graphs, kernels, fp8, streamed blocks, decoders and encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from fake_cuda import pretend
from fake_runs import SMALL, pipeline_on_device, sample
from fake_tensor import DeviceTensor

from ltx2_core.attention import _choice
from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.config import TransformerConfig
from ltx2_core.loading import Component
from ltx2_core.media.images import to_bytes
from ltx2_core.memory import BlockStreaming, DecodeChoice, DecoderMemory
from ltx2_core.run.decode import decode_chunks
from ltx2_core.run.leaving import LeavingFrames
from ltx2_core.sampling.guidance import Guidance, StreamGuidance
from ltx2_core.tiny.write import write_tiny_set
from ltx2_core.transformer import Modality, RopeMemory, Transformer
from ltx2_core.video_vae.diffusion import attention
from ltx2_core.video_vae.windows import Windows

CONFIG = TransformerConfig(
    num_layers=5,
    heads=2,
    head_dim=16,
    audio_head_dim=8,
    in_channels=6,
    out_channels=6,
    audio_in_channels=10,
    audio_out_channels=10,
    caption_channels=12,
)
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


@pytest.fixture
def device() -> Iterator[Any]:
    with pretend() as device:
        yield device
    _choice.cache_clear()


def test_a_clip_is_that_of_the_cpu(tiny_set):
    on_cpu = pipeline_on_device(tiny_set, device="cpu")("a red circle", **SMALL)
    with pretend() as device:
        there = sample(pipeline_on_device(tiny_set), device).clip
        assert there.latents.video.is_cuda
        assert torch.equal(there.latents.video.cpu(), on_cpu.latents.video)
        # The CPU joins operations of the decoder that the device computes one by one.
        assert abs(there.array().astype(int) - on_cpu.array()).max() <= 1
        assert torch.allclose(there.audio()[0], on_cpu.audio()[0], atol=1e-5)


def test_graphs_are_recorded_once_and_replayed(tiny_set, device):
    plain = sample(pipeline_on_device(tiny_set), device).clip.latents
    sampled = sample(pipeline_on_device(tiny_set, cuda_graphs=True), device)
    assert [graph.replays for graph in device.graphs] == [
        sum(stage.run for stage in sampled.clip.evaluations) + 1
    ], "one is a trial"
    assert torch.equal(sampled.clip.latents.video, plain.video)
    assert torch.equal(sampled.clip.latents.audio, plain.audio)
    assert sampled.waits == [{}] * len(sampled.waits)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_kernels_wait_for_nothing_after_their_trial(tiny_set, device, dtype):
    sampled = sample(pipeline_on_device(tiny_set, dtype, fused=True), device)
    assert sampled.pipeline.speed.fused.problem is None
    assert sampled.waits == [{}] * len(sampled.waits)


def test_cached_keys_of_the_text_wait_for_nothing(tiny_set_20, device):
    sampled = sample(pipeline_on_device(tiny_set_20, keep_text_keys=True), device)
    assert sampled.waits == [{}] * len(sampled.waits)


def test_batched_guidance_waits_for_nothing(tiny_set, device):
    passes = StreamGuidance(cfg=3, stg=1, modality=3)
    guidance = Guidance(video=passes, audio=passes, stg_blocks=(1,))
    image = torch.rand(1, 3, 64, 64)
    pipeline = pipeline_on_device(tiny_set, BFLOAT16, passes_per_call=4)
    sampled = sample(pipeline, device, guidance=guidance, image=image, image_crf=0)
    assert sampled.waits == [{}] * len(sampled.waits)


def test_audio_alone_waits_for_nothing(tiny_set, device):
    sampled = sample(pipeline_on_device(tiny_set, BFLOAT16), device, video=False)
    assert sampled.waits == [{}] * len(sampled.waits)


@pytest.mark.parametrize(
    ("generation", "request_"),
    [("ltxv-2b", {}), ("2.5", {"generated_keyframes": 1, "num_frames": 17}), ("2.5", {"seconds": 0.4})],
)
def test_other_generations_wait_for_nothing(device, tmp_path, generation, request_):
    files = write_tiny_set(tmp_path, generation=generation, dtype=FLOAT32)
    asked = {**request_, **({"num_frames": None} if "seconds" in request_ else {})}
    sampled = sample(pipeline_on_device(files, BFLOAT16), device, **asked)
    assert sampled.clip.array().shape[1:] == (64, 64, 3)
    assert sampled.waits == [{}] * len(sampled.waits)


def streams() -> list[Modality]:
    sigma = torch.tensor([0.7], device="cuda")
    return [
        Modality(
            tokens=torch.randn(1, positions.shape[2], channels).to("cuda"),
            timesteps=sigma[:, None],
            sigma=sigma,
            positions=positions,
            context=torch.randn(1, 5, 12).to("cuda"),
        )
        for positions, channels in ((video_positions(2, 2, 3, 24.0), 6), (audio_positions(4), 10))
    ]


def test_streamed_blocks_give_the_same_and_wait_for_nothing(device):
    torch.manual_seed(0)
    model, rope = Transformer(CONFIG).requires_grad_(False), RopeMemory()
    for parameter in model.parameters():
        parameter.normal_(std=0.25)
    given = streams()

    def run() -> list[torch.Tensor]:
        return [*model(*given, rope=rope.tables(model, *given))]

    with torch.inference_mode():
        streaming = BlockStreaming(model, "cuda", resident=1)
        first, before = run(), device.waits.copy()
        second, waits = run(), device.waits - before
        streaming.close()
        expected = (model.to("cuda"), run())[1]
    assert all(torch.equal(a, b) for a, b in zip((*first, *second), (*expected, *expected), strict=True))
    assert waits == {}


def test_fp8_blocks_wait_for_nothing(tiny_set, device):
    sampled = sample(pipeline_on_device(tiny_set, BFLOAT16, fp8_blocks=True), device)
    assert sampled.pipeline.networks.fp8_problem is None
    assert sampled.waits == [{}] * len(sampled.waits)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_codecs_take_and_give_what_is_there(tiny_set, device, dtype, tmp_path):
    pipeline = pipeline_on_device(tiny_set, dtype)
    latent = pipeline.encode_video(torch.rand(9, 3, 64, 64))
    assert latent.is_cuda
    assert pipeline.encode_audio(torch.zeros(2, 24000), 24000).is_cuda
    clip = sample(pipeline, device).clip
    (chunk,) = pipeline.decode_video(latent, as_bytes=True)
    assert chunk.dtype == torch.uint8
    assert not chunk.is_cuda
    clip.save(tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").stat().st_size > 1000


def test_the_diffusion_decoder_decodes(tiny_set, diffusion_vae, device, monkeypatch):
    # Interpreted, its kernel would take minutes.
    monkeypatch.setattr(attention, "kernel_for", lambda *_: None)
    pipeline = pipeline_on_device(tiny_set, video_decoder=diffusion_vae)
    latent = torch.zeros(1, 128, 2, 2, 2)
    assert torch.cat(list(pipeline.decode_video(latent))).shape == (9, 3, 64, 64)


def test_frames_leave_while_the_next_ones_are_decoded(tiny_set, device):
    """Each chunk waits for one copy, and only when the next chunk has been launched."""
    pipeline, latent = pipeline_on_device(tiny_set), torch.randn(1, 128, 3, 2, 2).to("cuda")
    choice = DecodeChoice(piece_bytes=2**14, memory=DecoderMemory(peak=0, state=0))
    events: list[str] = []
    with pipeline.networks.use(Component.VIDEO_DECODER) as decoder:
        # Interpreted, the kernel of its windows takes half a minute.
        decoder.windows = Windows(kernels=False)
        floats = decode_chunks(decoder, [latent], choice, as_bytes=False, check=lambda: None)
        expected = to_bytes(torch.cat(list(floats)))
        before = device.waits.copy()
        chunks = []
        for chunk in decode_chunks(
            decoder, [latent], choice, as_bytes=True, check=lambda: events.append("decoded")
        ):
            events.append("came")
            chunks.append(chunk)
    waits = {why: count for (why, place), count in (device.waits - before).items() if "decode.py" in place}
    assert torch.equal(torch.cat(chunks), expected)
    assert len(chunks) > 2
    assert waits == {}
    assert {w: n for (w, p), n in (device.waits - before).items() if "leaving" in p} == {"event": len(chunks)}
    assert events[:4] == ["decoded", "decoded", "came", "decoded"], "the next chunk is launched first"


def test_values_that_are_not_finite_are_named_when_they_arrive(device):
    frames = torch.zeros(2, 3, 4, 4, device="cuda")
    frames[1] = torch.nan
    with pytest.raises(ValueError, match="frame 6 holds NaN"):
        LeavingFrames().begin(frames, first=5)()


def test_the_stream_of_copies_reads_only_tensors_that_are_recorded_for_it(device, monkeypatch):
    """Other memory may be that of the next chunk before it is read."""
    inside: list[Any] = []
    read: set[int] = set()
    recorded: set[int] = set()
    run = device.run

    @contextmanager
    def stream(entered: Any) -> Iterator[None]:
        inside.append(entered)
        yield
        inside.clear()

    def noted(func: Any, args: Any, kwargs: Any) -> Any:
        if inside:
            read.update(one.data_ptr() for one in args if isinstance(one, DeviceTensor))
        return run(func, args, kwargs)

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(device, "run", noted)
    monkeypatch.setattr(DeviceTensor, "record_stream", lambda self, _: recorded.add(self.data_ptr()))
    LeavingFrames().begin(torch.ones(2, 3, 4, 4, device="cuda"), first=0)()
    assert len(read) == 2
    assert read <= recorded


def test_without_pinned_memory_frames_are_waited_for(device, monkeypatch):
    monkeypatch.setattr(LeavingFrames, "_buffer", lambda *_: None)
    assert LeavingFrames().begin(torch.ones(2, 3, 4, 4, device="cuda"), first=0)().unique().tolist() == [255]


def test_loras_of_streamed_blocks_are_merged_on_the_device(tiny_set, device):
    """Layer by layer: the network itself stays in system memory."""
    pipeline = pipeline_on_device(tiny_set, loras=[(tiny_set.lora, 0.7)])
    file, loras = pipeline.networks.file(Component.TRANSFORMER), pipeline.loras
    expected = file.load(Component.TRANSFORMER, dtype=FLOAT32, loras=loras).state_dict()
    device.kernels.clear()
    with pipeline.networks.use(Component.TRANSFORMER, loras, device=torch.device("cpu")) as network:
        found = network.state_dict()
    assert device.kernels["addmm_"] > 0
    assert not any(tensor.is_cuda for tensor in found.values())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
