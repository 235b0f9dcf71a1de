"""Latents of world clips, made once by given autoencoders and kept in shards.

A shard holds clips of one size and length: ``video`` (N, 128, F, H, W), ``last`` (N, 128, 1, H, W) of their
last frames alone, ``audio`` (N, 8, T, 16), perhaps ``edges`` like ``video``, and the states of N captions.
Letters as in types.py; N clips of a shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..audio import AudioEncoder, encode_audio
from ..media.atomic import replacing
from ..shapes import audio_latents_of
from ..text import Gemma, Tokenizer
from ..types import AVLatent
from .autoencoders.video_code import EncodesVideo
from .data import HELD_OUT, sent
from .text import TextBatch, TextStates, batch_text, encode_captions
from .world import FPS, Clip, caption, edge_map, make_clip

AUDIO_RATE = 16000
OnShard = Callable[[int, int], None]
"""Called with (finished shards, all shards)."""

_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Clips of one size and length, and how many; ``share`` of the training batches come from it."""

    width: int
    height: int
    frames: int
    clips: int
    share: float = 1.0
    edges: bool = False
    """Whether the latents of the clips' edges are kept beside them.

    Captions then do not say where bodies are: a LoRA that could read it there would not learn to see it.
    """

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """What turns a clip into latents and a caption into states."""

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
    """Write the shards of all buckets that are not in ``folder`` yet; a kill loses one shard a worker.

    Each bucket has scenes of its own: seeds count up from ``first_seed`` through the buckets. Above one,
    ``workers`` are processes of one thread each, and ``load``, which gives the encoders, must pickle.

    Raises ValueError if the seeds reach the held-out ones.
    """
    if first_seed + sum(bucket.clips for bucket in buckets) > HELD_OUT:
        raise ValueError(f"first_seed={first_seed} reaches held-out scenes, from {HELD_OUT} on; start lower")
    folder.mkdir(parents=True, exist_ok=True)
    planned: list[_Shard] = []
    seed = first_seed
    for bucket in buckets:
        for number, start in enumerate(range(0, bucket.clips, shard_clips)):
            seeds = range(seed + start, seed + min(start + shard_clips, bucket.clips))
            planned.append(_Shard(folder / f"{bucket.name}-{number:04d}.safetensors", bucket, seeds))
        seed += bucket.clips
    missing = [shard for shard in planned if not shard.path.exists()]
    there = len(planned) - len(missing)
    for done, _ in enumerate(_each_written(missing, load, workers), start=there + 1):
        if on_shard is not None:
            on_shard(done, len(planned))


class _Shard(NamedTuple):
    path: Path
    bucket: Bucket
    seeds: range


def _each_written(shards: Sequence[_Shard], load: Callable[[], Encoders], workers: int) -> Iterator[None]:
    """Writes the shards, and says so after each."""
    if workers == 1 or len(shards) < 2:
        encoders = load()
        for shard in shards:
            _write_shard(*shard, encoders)
            yield
        return
    # Not forked: threads and devices of this process do not survive in a copy.
    pool = ProcessPoolExecutor(
        min(workers, len(shards)), mp_context=get_context("spawn"), initializer=_begin, initargs=(load,)
    )
    with pool:
        futures = [pool.submit(_write_with_own, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_own: list[Encoders] = []
"""The encoders of a worker process."""


def _begin(load: Callable[[], Encoders]) -> None:
    torch.set_num_threads(1)
    _own.append(load())


def _write_with_own(shard: _Shard) -> None:
    _write_shard(*shard, _own[0])


def encode_clips(clips: Sequence[Clip], encoders: Encoders) -> AVLatent:
    """Clips of one size and length -> normalised latents, float32."""
    frames = len(clips[0].frames)
    waveforms = torch.stack([clip.waveform for clip in clips])
    length = audio_latents_of(frames, FPS)
    return AVLatent(
        encode_frames([clip.frames for clip in clips], encoders.video),
        encode_audio(encoders.audio, waveforms, AUDIO_RATE, latent_frames=length),
    )


def encode_frames(clips: Sequence[Tensor], encoder: EncodesVideo) -> Tensor:
    """Frames (F, 3, H, W) in [-1, 1] of N clips -> normalised latents (N, 128, f, h, w)."""
    with torch.no_grad():
        return encoder.encode(rearrange(torch.stack(list(clips)), "n f c h w -> n c f h w")).float()


def _last(clips: Sequence[Clip], encoder: EncodesVideo) -> Tensor:
    return encode_frames([clip.frames[-1:] for clip in clips], encoder)


def edge_frames(frames: Tensor) -> Tensor:
    """The control picture of frames (F, 3, H, W): their edges, white on black, (F, 3, H, W) in [-1, 1]."""
    return repeat(edge_map(frames) * 2 - 1, "f h w -> f c h w", c=3)


@dataclass(frozen=True)
class Sample:
    """A batch of one bucket: clean latents, text, and the edges' latents where the bucket has them.

    ``last`` (B, 128, 1, H, W) are those of the last frames, each encoded as a clip of its own.
    """

    latent: AVLatent
    text: TextBatch
    last: Tensor | None = None
    edges: Tensor | None = None
    fps: float = FPS


class LatentCache:
    """All shards of a folder in the memory of a device; :meth:`batch` draws from them."""

    def __init__(self, folder: Path, buckets: Sequence[Bucket], device: torch.device | str = "cpu") -> None:
        """Raises ValueError for a bucket that has no shard there."""
        self._device = torch.device(device)
        self._parts = [_Part.read(folder, bucket, self._device) for bucket in buckets]
        self._shares = torch.tensor([bucket.share for bucket in buckets])

    def __len__(self) -> int:
        return sum(len(part.lengths) for part in self._parts)

    def batch(self, size: int, generator: torch.Generator, *, edges: bool = False) -> Sample:
        """``size`` clips of one bucket; with ``edges`` only of those that keep them.

        Raises ValueError if none does.
        """
        shares = self._shares.clone()
        if edges:
            shares[torch.tensor([part.edges is None for part in self._parts])] = 0
            if not bool(shares.any()):
                raise ValueError("no bucket keeps edges: write the latents with Bucket(edges=True)")
        part = self._parts[int(torch.multinomial(shares, 1, generator=generator))]
        drawn = torch.randint(len(part.lengths), (size,), generator=generator)
        # On a GPU steps are recorded, for which batches of a bucket keep one shape.
        longest = part.text.mask.shape[1] if self._device.type == "cuda" else int(part.lengths[drawn].max())
        rows = sent(drawn, self._device)
        return Sample(
            AVLatent(part.video[rows].float(), part.audio[rows].float()),
            TextBatch(part.text.hidden[rows, :longest].float(), part.text.mask[rows, :longest]),
            part.last[rows].float(),
            part.edges[rows].float() if edges and part.edges is not None else None,
        )


@dataclass(frozen=True)
class _Part:
    video: Tensor
    last: Tensor
    audio: Tensor
    edges: Tensor | None
    text: TextBatch
    lengths: Tensor  # of captions, on the CPU

    @classmethod
    def read(cls, folder: Path, bucket: Bucket, device: torch.device) -> _Part:
        paths = sorted(folder.glob(f"{bucket.name}-*.safetensors"))
        if not paths:
            raise ValueError(f"{folder} has no latents of {bucket.name}: write them first")
        shards = [_read(path) for path in paths]
        if any("last" not in shard for shard, _ in shards):
            raise ValueError(f"{folder} was written without last frames: remove it to make it anew")
        captions = [caption for _, states in shards for caption in states.all()]
        tensors = {name: torch.cat([shard[name] for shard, _ in shards]).to(device) for name in shards[0][0]}
        text = batch_text(captions).map(lambda t: t.to(device))
        lengths = torch.tensor([len(caption) for caption in captions])
        return cls(tensors["video"], tensors["last"], tensors["audio"], tensors.get("edges"), text, lengths)


def _read(path: Path) -> tuple[dict[str, Tensor], TextStates]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in ("video", "last", "audio", "edges") if name in file.keys()]  # noqa: SIM118
        lengths = tuple(json.loads(file.metadata()["lengths"]))
        return {name: file.get_tensor(name) for name in names}, TextStates(file.get_tensor("text"), lengths)


def _write_shard(path: Path, bucket: Bucket, seeds: range, encoders: Encoders) -> None:
    clips = [make_clip(seed, bucket.frames, bucket.width, bucket.height, AUDIO_RATE) for seed in seeds]
    groups = [clips[start : start + _TOGETHER] for start in range(0, len(clips), _TOGETHER)]
    latents = [encode_clips(group, encoders) for group in groups]
    captions = [
        caption(clip.scene, seed, places=not bucket.edges) for clip, seed in zip(clips, seeds, strict=True)
    ]
    text = encode_captions(encoders.gemma, encoders.tokenizer, captions)
    tensors = {
        "video": torch.cat([latent.video for latent in latents if latent.video is not None]).half(),
        "audio": torch.cat([latent.audio for latent in latents if latent.audio is not None]).half(),
        "last": torch.cat([_last(group, encoders.video) for group in groups]).half(),
        "text": text.hidden,
    }
    if bucket.edges:
        controls = [[edge_frames(clip.frames) for clip in group] for group in groups]
        tensors["edges"] = torch.cat([encode_frames(some, encoders.video) for some in controls]).half()
    metadata = {
        "lengths": json.dumps(text.lengths),
        "seeds": json.dumps([seeds.start, seeds.stop]),
        "captions": json.dumps(captions),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
