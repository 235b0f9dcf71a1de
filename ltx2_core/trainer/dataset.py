"""Plans and encodes a dataset: each clip and each caption once, so that training needs no encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..loading import Component
from ..run.codecs import Codecs
from ..run.components import Components
from ..shapes import AUDIO_LATENTS_PER_SECOND, SPATIAL_SCALE, audio_latents_of
from ..storage.identity import identity
from .ahead import in_order
from .buckets import CENTRE, Bucket, latent_audio_mask, own_buckets, random_place
from .cache import VERSION, Entry, Index, digest, is_whole, state_of, write_clip
from .captions import prepared
from .clip_media import ClipMedia, read_media
from .media_clips import PlannedClip, Source, plan_clips, probe
from .rows import Row
from .scenes import check_scenes, scenes_of
from .texts import TextStage, encode_caption

OnItem = Callable[[str, int, int], None]
"""Called with (what, finished, all)."""

_VIDEO = ("video encoder",)
_TEXT = ("text encoder", "text projection", "text connectors")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """How a dataset is cut and encoded.

    ``buckets`` are the sizes and lengths; ``fps`` resamples videos, None keeps their rate; ``chunks`` takes
    all of a long video and not only its beginning; with ``slide`` a clip begins every so many frames, with
    ``uniform`` there are so many at even distances. ``scenes`` cuts a video where its content changes, so
    that no clip has a cut. ``trigger`` is put in front of captions, ``clean`` removes openings such as "The
    video shows". ``audio`` "off" ignores all audio, "required" refuses clips without.
    ``missing_audio`` says what happens to them otherwise: they train the video alone, or are skipped.
    ``downscale`` and ``temporal`` are how much smaller and slower reference videos are. ``audio_lengths`` are
    the lengths in seconds of clips of audio alone. ``official`` groups masks as the official trainer does.
    With ``max_pixels`` each clip has its own size, shrunk to at most so many pixels, and only the lengths of
    ``buckets`` count. ``text`` is how far captions are encoded: what a run trains must come after it.
    ``crop`` "random" cuts each clip at a place of its own, which ``crop_seed`` and the
    number of the clip in the dataset choose. ``repeats`` is how often an epoch has all clips.
    """

    buckets: tuple[Bucket, ...]
    max_pixels: int | None = None
    fps: float | None = None
    chunks: bool = False
    slide: int | None = None
    uniform: int | None = None
    scenes: bool = False
    trigger: str | None = None
    clean: bool = False
    audio: Literal["on", "off", "required"] = "on"
    missing_audio: Literal["video_only", "skip"] = "video_only"
    downscale: int = 1
    temporal: int = 1
    audio_lengths: tuple[float, ...] = (2.0, 4.0, 8.0)
    official: bool = False
    text: TextStage = "context"
    crop: Literal["center", "random"] = "center"
    crop_seed: int = 0
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a dataset becomes: its ``clips``, and sentences about entries that are left out (``skipped``)."""

    rows: tuple[Row, ...]
    sources: Mapping[str, Source]
    clips: tuple[PlannedClip, ...]
    skipped: tuple[str, ...]


def plan_dataset(rows: Sequence[Row], options: DatasetOptions, on_item: OnItem | None = None) -> Plan:
    """Read the headers of all files and choose a bucket for each clip; nothing is encoded.

    Raises ValueError for files that cannot be read, for clips without audio where it is required, for
    references that some entries lack, and if no clip is left.
    """
    _check_references(options)
    if options.scenes:
        check_scenes()
    sources: dict[str, Source] = {}
    clips: list[PlannedClip] = []
    skipped: list[str] = []
    errors: list[str] = []
    for number, row in enumerate(rows):
        if on_item is not None:
            on_item("read", number, len(rows))
        try:
            source = sources[row.where] = probe(row)
        except ValueError as error:
            errors.append(str(error))
            continue
        if row.video is not None and source.audio_s is None and options.audio == "required":
            errors.append(f"{row.where}: it has no audio, and audio is required")
        if row.video is not None and source.audio_s is None and options.missing_audio == "skip":
            skipped.append(f"{row.where}: it has no audio")
            continue
        found, reasons = _clips_of(number, row, source, options)
        skipped += [f"{row.where}: {reason}" for reason in reasons]
        clips += [without_audio(clip) if options.audio == "off" and row.video else clip for clip in found]
    errors += _uneven(rows)
    if errors:
        raise ValueError("\n".join(errors))
    if not clips:
        raise ValueError("no clip is left:\n" + "\n".join(skipped))
    return Plan(rows=tuple(rows), sources=sources, clips=tuple(clips), skipped=tuple(skipped))


def _check_references(options: DatasetOptions) -> None:
    """Raise ValueError for a bucket whose references would not lie on the latent grid."""
    for bucket in options.buckets:
        # Of own sizes only the lengths are those of the buckets.
        own = (
            bucket if options.max_pixels is None else Bucket(_least(options), _least(options), bucket.frames)
        )
        own.reference(options.downscale, options.temporal)


def _clips_of(
    number: int, row: Row, source: Source, options: DatasetOptions
) -> tuple[tuple[PlannedClip, ...], list[str]]:
    """The clips of entry ``number``, and why none or not all of them are taken."""
    buckets: Sequence[Bucket] = options.buckets
    if options.max_pixels is not None and row.video is not None:
        buckets = own_buckets(buckets, source.width, source.height, options.max_pixels, _least(options))
    scenes: tuple[tuple[float, float], ...] = ()
    if options.scenes and row.video is not None and not source.is_image:
        scenes = scenes_of(row.video)
    found = plan_clips(
        row,
        source,
        buckets,
        fps=options.fps,
        chunks=options.chunks,
        slide=options.slide,
        uniform=options.uniform,
        scenes=scenes,
        audio_lengths=options.audio_lengths,
    )
    if not found:
        return (), [_too_short(source, options)]
    if options.crop == "random":
        found = tuple(
            replace(clip, place=random_place(options.crop_seed, number, part))
            for part, clip in enumerate(found)
        )
    if source.audio_s is None or not (options.audio == "required" or options.missing_audio == "skip"):
        return found, []
    # The audio of a file may end before its later clips begin.
    reasons = [f"it has no audio from {clip.start_s:.2f} s on" for clip in found if clip.audio_s is None]
    return tuple(clip for clip in found if clip.audio_s is not None), reasons


def _least(options: DatasetOptions) -> int:
    """Pixels that the sides of clips are multiples of, so that their references lie on the latent grid."""
    return SPATIAL_SCALE * options.downscale


def without_audio(clip: PlannedClip) -> PlannedClip:
    """The clip with its frames alone."""
    return replace(clip, audio_s=None)


def models_of(networks: Components) -> dict[str, str]:
    """The digest of the weights of each network that encodes, by its name, of those that are there."""
    digests = networks.weight_digests()
    return {name: digests[name] for name in (*_VIDEO, "audio encoder", *_TEXT) if name in digests}


def encode_dataset(
    codecs: Codecs,
    plan: Plan,
    options: DatasetOptions,
    folder: Path,
    on_item: OnItem | None = None,
    *,
    workers: int = 0,
) -> tuple[Index, int]:
    """Encode what ``folder`` lacks and write its index; returns (index, number of files that were encoded).

    A file is named by a digest of its media, its cut and the networks, so that nothing is reused after one of
    them changed. Each file is written whole, so an interrupted call continues where it stopped. So many
    ``workers`` read and cut the clips that come next while one is encoded, each one clip at a time; the files
    are equal for any number.
    """
    networks = codecs.networks
    models = models_of(networks)
    made = 0
    texts: dict[str, str] = {}
    captions = {"", *(_caption(text, options) for clip in plan.clips for text in clip.row.captions)}
    text_models = {name: models[name] for name in _TEXT if name in models}
    parts = (Component.TEXT_ENCODER, Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS)
    # The text encoder is the largest network, and is gone before frames are encoded.
    with networks.holding(*parts):
        for number, text in enumerate(sorted(captions)):
            facts = {"text": text, "models": text_models, "dtype": str(networks.dtype), "v": VERSION}
            # Contexts have the names that they had before there was a choice.
            key = digest(facts if options.text == "context" else {**facts, "stage": options.text})
            texts[text] = f"texts/{key}.safetensors"
            if not is_whole(folder / texts[text]):
                if on_item is not None:
                    on_item("texts", number, len(captions))
                encoded = encode_caption(codecs, text, options.text)
                write_clip(folder / texts[text], encoded, {"caption": text})
                made += 1
    keys = [_key(clip, models, options, networks.dtype) for clip in plan.clips]
    # File systems count bytes, of which a character has up to four, and a name has up to 255.
    names = [
        f"clips/{clip.source.path.stem[:40]}-{key}.safetensors"
        for clip, key in zip(plan.clips, keys, strict=True)
    ]
    lacking = [number for number, name in enumerate(names) if not is_whole(folder / name)]
    with networks.holding(Component.VIDEO_ENCODER, Component.AUDIO_ENCODER):
        media = in_order(
            lambda number: read_media(
                plan.clips[number], options.downscale, options.temporal, official=options.official
            ),
            lacking,
            workers,
        )
        for number, read in zip(lacking, media, strict=True):
            clip = plan.clips[number]
            if on_item is not None:
                on_item("clips", number, len(plan.clips))
            with _named(clip):
                tensors = _encoded(codecs, clip, read())
            write_clip(folder / names[number], tensors, {"where": clip.row.where})
            made += 1
    entries = [_entry(clip, name, texts, options) for clip, name in zip(plan.clips, names, strict=True)]
    index = Index(
        entries=tuple(entries),
        models=models,
        trigger=options.trigger or "",
        reference=(options.downscale, options.temporal),
        empty_text=texts[""],
        text=options.text,
    )
    index.save(folder)
    return index, made


@contextmanager
def _named(clip: PlannedClip) -> Iterator[None]:
    """A context in which a ValueError names the place of ``clip``."""
    try:
        yield
    except ValueError as error:
        place = clip.row.where
        raise ValueError(str(error) if place in str(error) else f"{place}: {error}") from error


def _entry(clip: PlannedClip, name: str, texts: Mapping[str, str], options: DatasetOptions) -> Entry:
    spoken = tuple(_caption(text, options) for text in clip.row.captions)
    return Entry(
        file=name,
        where=clip.row.where,
        bucket="" if clip.bucket is None else clip.bucket.name,
        fps=clip.fps,
        seconds=clip.seconds,
        has_video=clip.bucket is not None,
        has_audio=clip.audio_s is not None,
        captions=spoken,
        texts=tuple(texts[text] for text in spoken),
        sources={str(path.resolve()): state_of(path) for path in clip.row.files.values()},
        repeats=clip.row.repeats * options.repeats,
    )


def _encoded(codecs: Codecs, clip: PlannedClip, media: ClipMedia) -> dict[str, Tensor]:
    """Encode frames, audio, reference and mask of a clip to latents without a batch axis, by name."""
    dtype, found = codecs.networks.dtype, dict[str, Tensor]()
    for name, frames in media.frames.items():
        found[name] = codecs.encode_video(frames)[0].to("cpu", dtype)
    if media.video_mask is not None:
        found["video_mask"] = media.video_mask
    assert clip.audio_s is not None or not media.audio
    length = max(1, round((clip.audio_s or 0.0) * AUDIO_LATENTS_PER_SECOND))
    if clip.bucket is not None:
        # As many as a clip of this length has at inference.
        length = audio_latents_of(clip.bucket.frames, clip.fps)
    for name, (waveform, rate) in media.audio.items():
        if name == "audio_mask":
            found[name] = latent_audio_mask(waveform, length)
            continue
        # Float32 whatever the networks compute in: audio is audibly better, and small.
        found[name] = codecs.encode_audio(waveform, rate, latent_frames=length)[0].to("cpu", torch.float32)
    return found


def _key(clip: PlannedClip, models: Mapping[str, str], options: DatasetOptions, dtype: torch.dtype) -> str:
    """The digest of everything that the latents of a clip depend on."""
    return digest(
        {
            "files": {name: identity([path]) for name, path in clip.row.files.items()},
            "bucket": clip.bucket,
            "fps": clip.fps,
            "start_s": clip.start_s,
            "audio_s": clip.audio_s,
            "reference": (options.downscale, options.temporal),
            "models": {name: models.get(name) for name in (*_VIDEO, "audio encoder")},
            "dtype": str(dtype),
            "official": options.official,
            # Left out for the usual crop, whose entries stay those of earlier calls.
            **({} if clip.place == CENTRE else {"place": clip.place}),
            "version": VERSION,
        }
    )


def _caption(text: str, options: DatasetOptions) -> str:
    return prepared(text, trigger=options.trigger, clean=options.clean)


def _too_short(source: Source, options: DatasetOptions) -> str:
    if not source.frames:
        shortest = min(options.audio_lengths)
        return f"its {source.audio_s or 0:.2f} s are shorter than the shortest length, {shortest:g} s"
    shortest_bucket = min(options.buckets, key=lambda b: b.frames)
    return f"its {source.frames} frames are fewer than those of the shortest bucket, {shortest_bucket.name}"


def _uneven(rows: Sequence[Row]) -> list[str]:
    """Sentences about entries that lack a reference or a mask that others have."""
    texts = []
    for name in ("reference_video", "reference_audio", "video_mask", "audio_mask"):
        lacking = [row for row in rows if name not in row.files]
        if len(lacking) < len(rows):
            texts += [f"{row.where}: it has no {name}, and other entries have one" for row in lacking]
    return texts
