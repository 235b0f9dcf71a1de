"""Batches of an encoded dataset in an order that depends only on the seed and the number of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..training.loop import step_generator
from ..training.objective import Clips, Objective, Reference
from ..types import TextContext
from .cache import Entry, Index

_ORDER = -1
"""In place of a process number: the generator of the order of an epoch."""


@dataclass(frozen=True)
class Batch:
    """Clips of one size and the objective that fits their streams; ``names`` are their places.

    ``texts`` are the tensors of the captions if they are not encoded to the end; the context of ``clips`` is
    then empty.
    """

    clips: Clips
    objective: Objective
    names: tuple[str, ...]
    texts: tuple[Mapping[str, Tensor], ...] = ()


class Samples:
    """The clips of an encoded dataset that an objective can train.

    Args:
        folder: folder of the encoded dataset.
        objective: what is trained. Clips without audio get the objective without audio, if that is possible.
        batch_size: clips of a batch; all have one size, rate and the same streams, so a batch may be smaller.
        seed: seed of the order.
        caption_dropout: how often a caption is empty.
        stream_dropout: how often it is empty for the video alone, and for the audio alone.
        device: where tensors are moved.

    Raises:
        ValueError: no clip can be trained.
    """

    def __init__(
        self,
        folder: Path,
        index: Index,
        objective: Objective,
        *,
        batch_size: int = 1,
        seed: int = 0,
        caption_dropout: float = 0.0,
        stream_dropout: tuple[float, float] = (0.0, 0.0),
        device: torch.device | str = "cpu",
    ) -> None:
        self.folder, self.index, self.seed = folder, index, seed
        self.batch_size, self.caption_dropout, self.device = batch_size, caption_dropout, device
        self.stream_dropout = stream_dropout
        if (caption_dropout or any(stream_dropout)) and not index.empty_text:
            raise ValueError(
                f"caption_dropout: {folder} has no empty caption, as it was taken from another cache without "
                "a text encoder: run ltx2 dataset --from-cache again with --text-encoder"
            )
        if any(stream_dropout) and index.text != "context":
            raise ValueError(
                f"caption_dropout_video and _audio: the captions of {folder} are {index.text}, which both "
                "streams share: use caption_dropout"
            )
        self.left_out: list[str] = []
        self.groups: dict[tuple[str, float, bool], list[Entry]] = {}
        self._objectives: dict[tuple[str, float, bool], Objective] = {}
        for entry in index.entries:
            fitting = objective.of_streams(video=entry.has_video, audio=entry.has_audio)
            if fitting is None:
                self.left_out.append(entry.where)
                continue
            # A stream that the objective lacks makes no difference.
            key = (entry.bucket or f"{entry.seconds:g}s", entry.fps, fitting.audio is not None)
            self.groups.setdefault(key, []).extend([entry] * entry.repeats)
            self._objectives[key] = fitting
        if not self.groups:
            raise ValueError("no clip of the dataset has the streams of this task: it needs frames or audio")
        self._epoch: tuple[int, list[tuple[tuple[str, float, bool], list[Entry]]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return sum(-(-len(entries) // self.batch_size) for entries in self.groups.values())

    @property
    def trains(self) -> tuple[bool, bool]:
        """Whether any batch computes the video, and the audio stream."""
        objectives = self._objectives.values()
        return any(o.video is not None for o in objectives), any(o.audio is not None for o in objectives)

    @property
    def audio_share(self) -> float:
        """The share of clips whose audio is generated, from 0 to 1."""
        counts = [
            (len(entries), objective.audio is not None and objective.audio.generated)
            for objective, entries in self.by_objective()
        ]
        return sum(count for count, audio in counts if audio) / sum(count for count, _ in counts)

    def by_objective(self) -> list[tuple[Objective, list[Entry]]]:
        """The clips that are trained, as often as an epoch has them, with the objective of their streams."""
        return [(self._objectives[key], entries) for key, entries in self.groups.items()]

    def batch(self, number: int, generator: torch.Generator) -> Batch:
        """Load batch ``number`` of the run, from 0 on; ``generator`` draws which caption each clip has."""
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        key, entries = self._epoch[1][place]
        return self._loaded(key, entries, generator)

    def first(self, count: int) -> list[Batch]:
        """The first ``count`` clips, each as a batch of its own, with their first captions."""
        # By file, because repeated clips are in their group several times.
        found = {entry.file: (key, entry) for key, entries in self.groups.items() for entry in entries}
        return [self._loaded(key, [entry], None) for key, entry in [*found.values()][:count]]

    def _order(self, epoch: int) -> list[tuple[tuple[str, float, bool], list[Entry]]]:
        """The batches of an epoch: clips of a group in random order, then batches of all groups."""
        generator = step_generator(self.seed, epoch, _ORDER)
        batches = []
        for key, entries in self.groups.items():
            order = torch.randperm(len(entries), generator=generator).tolist()
            shuffled = [entries[number] for number in order]
            size = self.batch_size
            batches += [(key, shuffled[start : start + size]) for start in range(0, len(shuffled), size)]
        return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]

    def _loaded(
        self, key: tuple[str, float, bool], entries: Sequence[Entry], generator: torch.Generator | None
    ) -> Batch:
        objective = self._objectives[key]
        tensors = [load_file(self.folder / entry.file) for entry in entries]
        texts = [self._texts(entry, generator) for entry in entries]
        fps = entries[0].fps or 24.0
        references: tuple[Reference, ...] = ()
        if objective.video is not None and "reference_video" in tensors[0]:
            slower = self.index.reference[1]
            references = (Reference(self._stack(tensors, "reference_video"), fps / slower),)
        voices: tuple[Tensor, ...] = ()
        if objective.audio is not None and "reference_audio" in tensors[0]:
            voices = (self._stack(tensors, "reference_audio"),)
        unfinished: tuple[Mapping[str, Tensor], ...] = ()
        if self.index.text == "context":
            context = TextContext(self._stack(texts, "video").float(), self._stack(texts, "audio").float())
        else:
            empty = torch.zeros(len(entries), 0, 0, device=self.device)
            context = TextContext(empty, empty)
            unfinished = tuple({name: t.to(self.device) for name, t in text.items()} for text in texts)
        clips = Clips(
            video=None if objective.video is None else self._stack(tensors, "video"),
            audio=None if objective.audio is None else self._stack(tensors, "audio"),
            context=context,
            fps=fps,
            video_mask=self._stack(tensors, "video_mask") if "video_mask" in tensors[0] else None,
            audio_mask=self._stack(tensors, "audio_mask") if "audio_mask" in tensors[0] else None,
            references=references,
            audio_references=voices,
        )
        return Batch(clips, objective, tuple(entry.where for entry in entries), unfinished)

    def _texts(self, entry: Entry, generator: torch.Generator | None) -> dict[str, Tensor]:
        """The text of a clip for each stream, by the name of the stream."""
        text = load_file(self.folder / self._text(entry, generator))
        # Nothing is drawn without a share, so that other runs have the random numbers that they had.
        if generator is not None and any(self.stream_dropout):
            chances = torch.rand(2, generator=generator).tolist()
            for name, chance, share in zip(("video", "audio"), chances, self.stream_dropout, strict=True):
                if chance < share:
                    text[name] = load_file(self.folder / self.index.empty_text)[name]
        return text

    def _text(self, entry: Entry, generator: torch.Generator | None) -> str:
        """The file of one of the captions of a clip, drawn at random; the first one without a generator."""
        if generator is None:
            return entry.texts[0]
        # Both are drawn in any case, so that later draws do not depend on the number of captions.
        chance, choice = torch.rand(2, generator=generator).tolist()
        if chance < self.caption_dropout:
            return self.index.empty_text
        return entry.texts[int(choice * len(entry.texts))]

    def _stack(self, tensors: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
        parts = [one[name] for one in tensors]
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise ValueError(f"{name} of clips in one batch differ in length ({shapes}): use batch_size=1")
        return torch.stack(parts).to(self.device)
