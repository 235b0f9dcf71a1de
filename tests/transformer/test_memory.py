"""What a step needs in memory and calls, at released sizes on the meta device and for real at tiny ones."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from ltx2_core.config import TransformerConfig
from ltx2_core.memory import Trace
from ltx2_core.memory.estimate import step_bytes
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer import Modality, Perturbation, Perturbations, Runner, TextMemory, Transformer
from ltx2_core.transformer.shards import Shards

RELEASED = TransformerConfig(
    num_layers=2, caption_projection=False, gated_attention=True, cross_attention_adaln=True
)
SIZES = {"768x512x121": (16, 16, 24), "1920x1088x121": (16, 34, 60)}
LIMITS = {
    ("768x512x121", None): 0.50e9,
    ("1920x1088x121", None): 2.6e9,
    ("768x512x121", 2048): 0.35e9,
    ("1920x1088x121", 2048): 1.3e9,
}


def empty(*shape):
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def released_step(grid, *, image, layers=1, chunk_tokens=None, shards=None):
    """Trace one step of 2.3 with its rotary tables; an ``image`` holds the first latent frame clean."""
    frames, height, width = grid
    count, sound = frames * height * width, 126
    model = Transformer(replace(RELEASED, num_layers=layers), dtype=torch.bfloat16, device="meta")
    run = Runner(model, chunk_tokens=chunk_tokens, shards=shards)
    sigma = torch.tensor([0.7])
    timesteps = torch.full((1, count), 0.7)
    timesteps[:, : height * width] = 0
    with torch.no_grad():
        tables = model.rope_tables(
            empty(1, 3, count, 2), empty(1, 1, sound, 2), dtype=torch.bfloat16, device="meta"
        )
        streams = [
            Modality(
                tokens=empty(1, tokens, 128),
                timesteps=timesteps if image and axes == 3 else sigma[:, None],
                sigma=sigma.to("meta"),
                positions=empty(1, axes, tokens, 2),
                context=empty(1, 1024, text),
            )
            for tokens, axes, text in ((count, 3, RELEASED.dim), (sound, 1, RELEASED.audio_dim))
        ]
        ropes = [t for t in vars(tables).values() if t is not None]
        with Trace([table for rope in ropes for table in (rope.cos, rope.sin)]) as trace:
            run(*streams, rope=tables)
    return trace


@pytest.mark.parametrize("image", [False, True], ids=["text to video", "image to video"])
@pytest.mark.parametrize(("size", "chunk_tokens"), LIMITS)
def test_a_step_at_released_size_stays_below_its_limit(size, chunk_tokens, image):
    assert (
        released_step(SIZES[size], image=image, chunk_tokens=chunk_tokens).peak <= LIMITS[size, chunk_tokens]
    )


@pytest.mark.parametrize(("size", "chunk_tokens"), LIMITS)
def test_the_prediction_is_within_a_tenth_of_the_trace(size, chunk_tokens):
    width, height, frames = (int(n) for n in size.split("x"))
    predicted = step_bytes(RELEASED, plan_clip(width, height, frames=frames), 2, chunk_tokens=chunk_tokens)
    traced = released_step(SIZES[size], image=False, chunk_tokens=chunk_tokens).peak
    assert predicted == pytest.approx(traced, rel=0.1)


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_the_prediction_for_one_of_several_processes_is_within_a_tenth_of_the_trace(monkeypatch, size, parts):
    # What other processes send has no values on the meta device.
    monkeypatch.setattr(dist, "get_world_size", lambda group: parts)
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    for exchange in ("all_to_all_single", "all_gather"):
        monkeypatch.setattr(dist, exchange, lambda *tensors, group: None)
    width, height, frames = (int(n) for n in size.split("x"))
    predicted = step_bytes(RELEASED, plan_clip(width, height, frames=frames), 2, parts=parts)
    traced = released_step(SIZES[size], image=False, shards=Shards()).peak
    assert predicted == pytest.approx(traced, rel=0.1)


def test_more_blocks_need_no_more_memory():
    one, three = (released_step((4, 8, 8), image=False, layers=n).peak for n in (1, 3))
    assert three == one


def test_a_block_calls_at_most_350_operations_with_and_without_an_image():
    def per_block(image):
        one, two = (released_step((4, 8, 8), image=image, layers=n).operations.total() for n in (1, 2))
        return two - one

    assert per_block(image=False) <= per_block(image=True) <= 350


@pytest.mark.parametrize("image", [False, True])
def test_chunks_give_what_the_whole_gives(model, streams, image):
    video, audio = (make(model.config) for make in streams)
    if image:
        timesteps = video.timesteps.repeat(1, video.tokens.shape[1])
        timesteps[:, :5] = 0
        video = replace(video, timesteps=timesteps)
    mask = torch.rand(2, video.tokens.shape[1], video.tokens.shape[1])
    skip = Perturbations((Perturbation(video_self_attention=[1], v2a=[0]), Perturbation(a2v="all")))
    with torch.inference_mode():
        for given, perturbations in ((video, None), (replace(video, attention_mask=mask), skip)):
            whole = model(given, audio, perturbations)
            parts = Runner(model, chunk_tokens=5)(given, audio, perturbations)
            for a, e in zip(parts, whole, strict=True):
                torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def test_steps_with_and_without_gradients_agree(model, streams):
    video, audio = (make(model.config) for make in streams)
    expected = [v.detach() for v in model(video, audio)]
    with torch.no_grad():
        actual = Runner(model)(video, audio)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5)


@pytest.mark.parametrize("keys", [False, True])
def test_cached_texts_change_nothing_and_are_computed_once(model, streams, keys):
    video, audio = (make(model.config) for make in streams)
    texts = TextMemory(keys=keys)
    with torch.inference_mode():
        expected = model(video, audio)
        operations = []
        for _ in range(2):
            with Trace() as trace:
                actual = model(video, audio, texts=texts)
            operations.append(trace.operations["linear"])
            assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    c = model.config
    projections = 4 if c.caption_projection else 0
    still = keys and not (c.cross_attention_adaln and c.prompt_adaln)
    assert operations[0] - operations[1] == projections + 8 * still


def test_cached_texts_are_told_apart(model, streams):
    video, audio = (make(model.config) for make in streams)
    other = replace(video, context=video.context + 1), replace(audio, context=audio.context - 1)
    texts = TextMemory(keys=True)
    with torch.inference_mode():
        for pair in ((video, audio), other, (video, audio)):
            cached, fresh = model(*pair, texts=texts), model(*pair)
            assert all(torch.equal(a, e) for a, e in zip(cached, fresh, strict=True))
