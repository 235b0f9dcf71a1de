"""Encodes rendered clips of the synthetic world and writes shards for :mod:`ltx2_core.training.latents`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ...audio import AudioEncoder, encode_audio
from ...shapes import audio_latents_of
from ...text import Gemma, Tokenizer
from ...types import AVLatent
from ..autoencoders.video_code import EncodesVideo
from ..latents import Bucket, write_shard
from ..text import encode_captions
from ..world import FPS, Clip, caption, clip_from_seed, edge_frames, with_length
from ..world.batches import AUDIO_RATE, HELD_OUT

OnShard = Callable[[int, int], None]
"""Called with (finished shards, all shards)."""

_CLIPS_PER_CALL = 16


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The networks that encode the frames, the audio and the caption of a clip."""

    video: EncodesVideo
    audio: AudioEncoder
    gemma: Gemma
    tokenizer: Tokenizer


def write_latents(
    folder: Path,
    buckets: Sequence[Bucket],
    load: Callable[[], Encoders],
    *,
    first_seed: int = 0,
    shard_clips: int = 256,
    workers: int = 1,
    on_shard: OnShard | None = None,
) -> None:
    """Write the shards (files of latents) of ``buckets`` that ``folder`` lacks.

    Existing shards are left, so an interrupted call loses at most one shard per worker. A shard has
    ``shard_clips`` clips; ``on_shard`` is called after each with the numbers of finished and of all shards.
    The scenes of the clips have the seeds from ``first_seed`` on, one bucket after the other, so no two
    buckets share a scene. With more than one worker, ``workers`` processes of one thread each encode shards
    in parallel; ``load``, which returns the encoders, is called in each of them and must be picklable.

    Raises ValueError if the seeds would reach those that are held out for evaluation.
    """
    if first_seed + sum(bucket.clips for bucket in buckets) > HELD_OUT:
        raise ValueError(f"first_seed={first_seed} reaches held-out scenes, from {HELD_OUT} on; start lower")
    folder.mkdir(parents=True, exist_ok=True)
    planned: list[_Shard] = []
    seed = first_seed
    for bucket in buckets:
        # Seeds follow from the plan alone and not from what exists, so that a resumed call renders the same
        # clips.
        for number, start in enumerate(range(0, bucket.clips, shard_clips)):
            seeds = range(seed + start, seed + min(start + shard_clips, bucket.clips))
            planned.append(_Shard(bucket.shard(folder, number), bucket, seeds))
        seed += bucket.clips
    # Shards are written whole or not at all, so one that exists is complete.
    missing = [shard for shard in planned if not shard.path.exists()]
    existing = len(planned) - len(missing)
    for done, _ in enumerate(_each_written(missing, load, workers), start=existing + 1):
        if on_shard is not None:
            on_shard(done, len(planned))


class _Shard(NamedTuple):
    path: Path
    bucket: Bucket
    seeds: range


def _each_written(shards: Sequence[_Shard], load: Callable[[], Encoders], workers: int) -> Iterator[None]:
    """Write all ``shards``, with ``workers`` processes; yields once after each shard.

    ``load`` returns the encoders; it is called once in each process.
    """
    if workers == 1 or len(shards) < 2:
        encoders = load()
        for shard in shards:
            _write(*shard, encoders)
            yield
        return
    # Not forked: threads and devices of this process do not survive in a copy.
    pool = ProcessPoolExecutor(
        min(workers, len(shards)),
        mp_context=get_context("spawn"),
        initializer=_load_in_worker,
        initargs=(load,),
    )
    with pool:
        futures = [pool.submit(_write_in_worker, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            # Without this the pool would still encode every shard in its queue.
            pool.shutdown(cancel_futures=True)
            raise


_worker_encoders: list[Encoders] = []
"""The encoders of a worker process."""


def _load_in_worker(load: Callable[[], Encoders]) -> None:
    # As many processes as cores already run, and more threads would compete for them.
    torch.set_num_threads(1)
    _worker_encoders.append(load())


def _write_in_worker(shard: _Shard) -> None:
    _write(*shard, _worker_encoders[0])


def _write(path: Path, bucket: Bucket, seeds: range, encoders: Encoders) -> None:
    clips = [clip_from_seed(seed, bucket.frames, bucket.width, bucket.height, AUDIO_RATE) for seed in seeds]
    groups = [clips[start : start + _CLIPS_PER_CALL] for start in range(0, len(clips), _CLIPS_PER_CALL)]
    latents = [encode_clips(group, encoders) for group in groups]
    # A LoRA that could read positions in the caption would not learn to see them in the control video.
    captions = [
        caption(clip.scene, seed, places=not bucket.reference)
        for clip, seed in zip(clips, seeds, strict=True)
    ]
    if bucket.says_s is not None:
        length = bucket.says_s
        captions = [
            text if seed % 3 else with_length(text, length, seed)
            for text, seed in zip(captions, seeds, strict=True)
        ]
    # A keyframe is encoded by itself at inference, where it has no frames before it.
    last = [encode_frames([clip.frames[-1:] for clip in group], encoders.video) for group in groups]
    reference = None
    if bucket.reference:
        controls = [[edge_frames(clip.frames) for clip in group] for group in groups]
        reference = torch.cat([encode_frames(group, encoders.video) for group in controls])
    write_shard(
        path,
        AVLatent(
            torch.cat([latent.video for latent in latents if latent.video is not None]),
            torch.cat([latent.audio for latent in latents if latent.audio is not None]),
        ),
        torch.cat(last),
        encode_captions(encoders.gemma, encoders.tokenizer, captions),
        reference=reference,
        metadata={"seeds": json.dumps([seeds.start, seeds.stop]), "captions": json.dumps(captions)},
    )


def encode_clips(clips: Sequence[Clip], encoders: Encoders) -> AVLatent:
    """Encode N clips of one size and length into normalised latents, float32."""
    frames = len(clips[0].frames)
    waveforms = torch.stack([clip.waveform for clip in clips])
    # The length is set, because the encoder alone would round it by the samples that it gets.
    length = audio_latents_of(frames, FPS)
    return AVLatent(
        encode_frames([clip.frames for clip in clips], encoders.video),
        encode_audio(encoders.audio, waveforms, AUDIO_RATE, latent_frames=length),
    )


def encode_frames(clips: Sequence[Tensor], encoder: EncodesVideo) -> Tensor:
    """Frames (F, 3, H, W) in [-1, 1] of N clips -> normalised latents (N, 128, f, h, w), float32."""
    with torch.no_grad():
        return encoder.encode(rearrange(torch.stack(list(clips)), "n f c h w -> n c f h w")).float()
