"""A dataset of precomputed latents: clips of a few sizes in safetensors shards, read into memory as a whole.

A shard holds N clips of one size and length: ``video`` (N, 128, F, H, W), ``last`` (N, 128, 1, H, W), which
is the last frame of each clip encoded by itself, ``audio`` (N, 8, T, 16), optionally ``edges`` (like
``video``, the latents of a control video), and the hidden states of N captions. F, H, W are latent frames,
rows and columns, T audio latent frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..storage.writing import write_tensors
from ..types import AVLatent
from .data import to_device
from .text import TextBatch, TextStates, batch_text


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A group of clips of one size and length; size and length are in the names of its files (shards).

    ``width`` and ``height`` are pixels, ``frames`` pixel frames.
    """

    width: int
    height: int
    frames: int
    clips: int
    """How many clips the bucket has."""
    share: float = 1.0
    """How often a training batch comes from this bucket, relative to the others."""
    reference: bool = False
    """Whether each clip has the latents of a control video, for training an IC-LoRA."""
    says_s: float | None = None
    """Length in seconds that every third caption names; None: none does."""

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"

    def shard(self, folder: Path, number: int) -> Path:
        """Path of file number ``number`` of this bucket in ``folder``."""
        return folder / f"{self.name}-{number:04d}.safetensors"


@dataclass(frozen=True)
class Sample:
    """A batch of B clips of one size and length: clean normalised latents in float32, and their captions.

    ``text`` has the hidden states of the captions. ``last`` (B, 128, 1, H, W) are the last frames, each
    encoded by itself, and ``reference`` (B, 128, F, H, W) the latents of a control video; None where there
    are none.
    """

    latent: AVLatent
    text: TextBatch
    fps: float
    last: Tensor | None = None
    reference: Tensor | None = None


class LatentCache:
    """All latents of a folder of shards, held in the memory of a device; :meth:`batch` draws from them."""

    def __init__(
        self,
        folder: Path,
        buckets: Sequence[Bucket],
        device: torch.device | str = "cpu",
        *,
        fps: float = 25.0,
    ) -> None:
        """Read all shards (files) of ``buckets`` in ``folder`` to ``device``; ``fps`` is that of all clips.

        Raises ValueError for a bucket without shards, and for shards without the tensor ``last``.
        """
        self._device, self._fps = torch.device(device), fps
        self._parts = [_Part.read(folder, bucket, self._device) for bucket in buckets]
        self._shares = torch.tensor([bucket.share for bucket in buckets])

    def __len__(self) -> int:
        return sum(len(part.lengths) for part in self._parts)

    def batch(self, size: int, generator: torch.Generator, *, reference: bool = False) -> Sample:
        """Draw ``size`` clips of one random bucket, a group of clips of one size and length.

        With ``reference`` only buckets with control videos are drawn from. Raises ValueError if no bucket has
        any.
        """
        shares = self._shares.clone()
        if reference:
            shares[torch.tensor([part.reference is None for part in self._parts])] = 0
            if not bool(shares.any()):
                raise ValueError(
                    "no bucket has control videos: write the latents with Bucket(reference=True)"
                )
        part = self._parts[int(torch.multinomial(shares, 1, generator=generator))]
        drawn = torch.randint(len(part.lengths), (size,), generator=generator)
        # On a GPU steps are CUDA graphs, so all batches of a bucket must have one shape.
        longest = part.text.mask.shape[1] if self._device.type == "cuda" else int(part.lengths[drawn].max())
        index = to_device(drawn, self._device)
        return Sample(
            AVLatent(part.video[index].float(), part.audio[index].float()),
            TextBatch(part.text.hidden[index, :longest].float(), part.text.mask[index, :longest]),
            self._fps,
            part.last[index].float(),
            part.reference[index].float() if reference and part.reference is not None else None,
        )


@dataclass(frozen=True)
class _Part:
    """All tensors of one bucket (clips of one size); ``lengths`` (clips,) counts the tokens of captions."""

    video: Tensor
    last: Tensor
    audio: Tensor
    reference: Tensor | None
    text: TextBatch
    lengths: Tensor

    @classmethod
    def read(cls, folder: Path, bucket: Bucket, device: torch.device) -> _Part:
        paths = sorted(folder.glob(f"{bucket.name}-*.safetensors"))
        if not paths:
            raise ValueError(f"{folder} has no latents of {bucket.name}: write them first")
        shards = [_read(path) for path in paths]
        if any("last" not in shard for shard, _ in shards):
            raise ValueError(f"{folder} was written without last frames: remove it to have it written again")
        # Shards hold captions without padding; here all of them get that of the longest.
        captions = [caption for _, states in shards for caption in states.all()]
        tensors = {name: torch.cat([shard[name] for shard, _ in shards]).to(device) for name in shards[0][0]}
        text = batch_text(captions).map(lambda t: t.to(device))
        lengths = torch.tensor([len(caption) for caption in captions])
        return cls(tensors["video"], tensors["last"], tensors["audio"], tensors.get("edges"), text, lengths)


def write_shard(
    path: Path,
    latent: AVLatent,
    last: Tensor,
    text: TextStates,
    *,
    reference: Tensor | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one shard of N clips to ``path``: latents in float16, text states in their own dtype.

    ``last`` (N, 128, 1, H, W) are the last frames, each encoded by itself; ``reference`` (N, 128, F, H, W)
    are latents of control videos, None without. ``metadata`` is for the header. The file appears whole or not
    at all. Raises ValueError if ``latent`` lacks video or audio.
    """
    if latent.video is None or latent.audio is None:
        raise ValueError("a shard holds both streams: give video and audio latents")
    tensors = {
        # Normalised latents are near unit variance, so float16 has range enough and more precision than
        # bfloat16.
        "video": latent.video.half(),
        "audio": latent.audio.half(),
        "last": last.half(),
        "text": text.hidden,
    }
    if reference is not None:
        tensors["edges"] = reference.half()
    write_tensors(path, tensors, {"lengths": json.dumps(text.lengths), **(metadata or {})})


def _read(path: Path) -> tuple[dict[str, Tensor], TextStates]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in ("video", "last", "audio", "edges") if name in file.keys()]  # noqa: SIM118
        lengths = tuple(json.loads(file.metadata()["lengths"]))
        return {name: file.get_tensor(name) for name in names}, TextStates(file.get_tensor("text"), lengths)
