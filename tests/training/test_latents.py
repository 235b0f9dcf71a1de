"""The dataset of latents holds the encoded clips of the world; finished shards are not written again."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.training.latents import Bucket, LatentCache
from ltx2_core.training.text import encode_captions, load_text
from ltx2_core.training.tiny.latents import Encoders, encode_clips, encode_frames, write_latents
from ltx2_core.training.world import clip_from_seed, edge_frames
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT

BUCKETS = (
    Bucket(width=64, height=32, frames=9, clips=3),
    Bucket(width=32, height=32, frames=9, clips=2, reference=True),
)


@pytest.fixture(scope="module")
def encoders(tiny_set, world_gemma) -> Encoders:
    checkpoint = open_checkpoint(tiny_set.checkpoint)
    gemma, tokenizer = load_text(world_gemma)
    return Encoders(
        video=checkpoint.load(Component.VIDEO_ENCODER),
        audio=checkpoint.load(Component.AUDIO_ENCODER),
        gemma=gemma,
        tokenizer=tokenizer,
    )


@pytest.fixture(scope="module")
def folder(encoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    write_latents(folder, BUCKETS, lambda: encoders, first_seed=5, shard_clips=2)
    return folder


def test_the_cache_holds_the_clips_of_consecutive_seeds(folder, encoders) -> None:
    cache = LatentCache(folder, BUCKETS[:1])
    assert len(cache) == 3
    clips = [clip_from_seed(seed, 9, 64, 32, AUDIO_RATE) for seed in (5, 6, 7)]
    latent = encode_clips(clips, encoders)
    states = encode_captions(encoders.gemma, encoders.tokenizer, [clip.caption for clip in clips]).all()
    sample = cache.batch(8, torch.Generator().manual_seed(0))
    assert sample.latent.audio.shape[2] == 9
    for row in range(8):
        distances = (latent.video - sample.latent.video[row]).abs().flatten(1).amax(dim=1)
        own = int(distances.argmin())
        assert distances[own] < 1e-2
        torch.testing.assert_close(sample.latent.audio[row], latent.audio[own], atol=1e-2, rtol=1e-2)
        text = sample.text.hidden[row][sample.text.mask[row].bool()]
        torch.testing.assert_close(text, states[own].float(), atol=0.05, rtol=0.05)


def test_the_same_generator_draws_the_same_batch(folder) -> None:
    cache = LatentCache(folder, BUCKETS)
    one, two = (cache.batch(4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.latent.video, two.latent.video)
    assert torch.equal(one.text.hidden, two.text.hidden)


def test_control_videos_come_from_the_buckets_that_have_them(folder, encoders) -> None:
    sample = LatentCache(folder, BUCKETS).batch(4, torch.Generator().manual_seed(1), reference=True)
    assert sample.reference.shape == sample.latent.video.shape == (4, 128, 2, 1, 1)
    expected = encode_frames(
        [edge_frames(clip_from_seed(s, 9, 32, 32, AUDIO_RATE).frames) for s in (8, 9)], encoders.video
    )
    nearest = (sample.reference[:, None] - expected).abs().flatten(2).amax(dim=2).amin(dim=1)
    assert nearest.max() < 1e-2
    with pytest.raises(ValueError, match="no bucket has control videos"):
        LatentCache(folder, BUCKETS[:1]).batch(1, torch.Generator(), reference=True)


def test_finished_shards_are_not_written_again(folder, encoders) -> None:
    paths = sorted(folder.glob("*.safetensors"))
    assert len(paths) == 3
    before = [path.stat().st_mtime_ns for path in paths[1:]]
    content = load_file(paths[0])
    paths[0].unlink()
    write_latents(folder, BUCKETS, lambda: encoders, first_seed=5, shard_clips=2)
    assert [path.stat().st_mtime_ns for path in paths[1:]] == before
    rewritten = load_file(paths[0])
    assert rewritten.keys() == content.keys()
    assert all(torch.equal(rewritten[n], content[n]) for n in content)


def test_held_out_scenes_and_missing_buckets_are_refused(folder, encoders, tmp_path) -> None:
    with pytest.raises(ValueError, match="held-out"):
        write_latents(tmp_path, BUCKETS, lambda: encoders, first_seed=HELD_OUT - 4)
    with pytest.raises(ValueError, match="has no latents of 64x64x9"):
        LatentCache(folder, [Bucket(width=64, height=64, frames=9, clips=1)])
