"""Makes an encoded dataset of what another trainer encoded, without encoding media again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..loading import Component
from ..run.codecs import Codecs
from ..shapes import AUDIO_LATENTS_PER_SECOND, SPATIAL_SCALE, frames_of
from ..storage.identity import tensor_identity
from ..text import TextConnectors
from ..training.objective import reference_factors
from ..types import TextContext, TextFeatures
from .buckets import Bucket
from .cache import VERSION, Entry, Index, digest, is_whole, state_of, write_clip
from .dataset import OnItem, models_of
from .foreign_caches import ForeignClip, foreign_clips


def import_cache(codecs: Codecs, folder: Path, out: Path, on_item: OnItem | None = None) -> tuple[Index, int]:
    """Write the clips that the official trainer or DiffSynth encoded in ``folder`` as a dataset in ``out``.

    Returns (index, number of files that were written). Nothing in ``folder`` says which files encoded it: the
    dataset belongs to those of ``codecs``. The empty caption is encoded if a text encoder is there. Raises
    ValueError for files of another shape or width than the networks take, named one by one, and for
    references of several scales.
    """
    networks = codecs.networks
    models = models_of(networks)
    count, clips = foreign_clips(folder)
    entries: list[Entry] = []
    scales: dict[tuple[int, int], str] = {}
    made = 0
    with networks.holding(Component.TEXT_CONNECTORS):
        for number, clip in enumerate(clips):
            if on_item is not None:
                on_item("clips", number, count)
            text = _context(codecs, clip)
            texts = {"video": text.video[0].cpu(), "audio": text.audio[0].cpu()}
            stem = Path(clip.name).name[:40]
            names = []
            for part, tensors in (("clips", clip.latents), ("texts", texts)):
                key = digest(
                    {"values": {k: tensor_identity(t) for k, t in tensors.items()}, "version": VERSION}
                )
                name = f"{part}/{stem}-{key}.safetensors" if part == "clips" else f"{part}/{key}.safetensors"
                if not is_whole(out / name):
                    write_clip(out / name, tensors, {"where": clip.name})
                    made += 1
                names.append(name)
            entries.append(_entry(clip, names[0], names[1]))
            if "reference_video" in clip.latents:
                factors = reference_factors(clip.latents["video"], clip.latents["reference_video"])
                scales.setdefault(factors, clip.name)
    if len(scales) > 1:
        raise ValueError(
            "the references have several scales: "
            + "; ".join(f"{name}: {space} in space, {time} in time" for (space, time), name in scales.items())
        )
    index = Index(
        entries=tuple(entries),
        models=models,
        reference=next(iter(scales), (1, 1)),
        empty_text=_empty(codecs, out) if networks.text_encoder is not None else "",
    )
    index.save(out)
    return index, made


def _context(codecs: Codecs, clip: ForeignClip) -> TextContext:
    """The text of a clip as the transformer reads it."""
    networks = codecs.networks
    with networks.use(Component.TEXT_CONNECTORS) as connectors, torch.inference_mode():
        if isinstance(clip.text, TextContext):
            _check_widths(clip, clip.text, connectors)
            return clip.text
        features = clip.text
        audio, width = features.audio, connectors.audio_embeddings_connector.config.dim
        if "audio" not in clip.latents and audio is features.video and audio.shape[-1] != width:
            # A text for video alone: that of the audio is not read by a clip without audio.
            audio = audio.new_zeros(*audio.shape[:2], width)
        try:
            moved = TextFeatures(*(one.to(networks.device) for one in (features.video, audio, features.mask)))
            context: TextContext = connectors(moved.to(networks.dtype))
        except ValueError as error:
            raise ValueError(f"{clip.files[-1]}: {error}") from error
    return context


def _check_widths(clip: ForeignClip, text: TextContext, connectors: TextConnectors) -> None:
    """Raise ValueError if a text is not as wide as the connectors make it."""
    for name in ("video", "audio"):
        width = getattr(connectors, f"{name}_embeddings_connector").config.dim
        shape = tuple(getattr(text, name).shape)
        if len(shape) != 3 or shape[2] != width:
            raise ValueError(
                f"{clip.files[-1]}: {name}_context has the shape {shape} and not (1, tokens, {width}), that "
                "of this model"
            )


def _entry(clip: ForeignClip, file: str, text: str) -> Entry:
    video, audio = clip.latents.get("video"), clip.latents.get("audio")
    if video is None:
        assert audio is not None
        bucket, fps, seconds = "", 0.0, audio.shape[1] / AUDIO_LATENTS_PER_SECOND
    else:
        bucket, fps = _bucket(video).name, clip.fps
        seconds = _bucket(video).frames / fps
    return Entry(
        file=file,
        where=clip.name,
        bucket=bucket,
        fps=fps,
        seconds=seconds,
        has_video=video is not None,
        has_audio=audio is not None,
        captions=("",),
        texts=(text,),
        sources={str(path.resolve()): state_of(path) for path in clip.files},
    )


def _bucket(video: Tensor) -> Bucket:
    frames, rows, columns = video.shape[1:]
    return Bucket(columns * SPATIAL_SCALE, rows * SPATIAL_SCALE, frames_of(frames))


def _empty(codecs: Codecs, out: Path) -> str:
    """Encode the empty caption; returns the name of its file."""
    key = digest({"text": "", "models": models_of(codecs.networks), "version": VERSION})
    if not is_whole(out / f"texts/{key}.safetensors"):
        context, _ = codecs.encode_text("")
        values = {"video": context.video[0].cpu(), "audio": context.audio[0].cpu()}
        write_clip(out / f"texts/{key}.safetensors", values, {"caption": ""})
    return f"texts/{key}.safetensors"
