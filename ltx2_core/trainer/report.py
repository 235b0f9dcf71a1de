"""The report about a dataset before anything is encoded: what will be trained, and what looks wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from ..storage.identity import identity
from .captions import has_trigger, is_ordinary
from .dataset import DatasetOptions, Plan
from .media_clips import PlannedClip, read_clip_audio
from .warnings import ordinary_text

SHORT_CAPTION = 10
"""Captions of fewer words describe too little: what is not described is learnt with the subject."""

SILENCE_DB = -60.0
"""Audio below this level, in decibels of full scale, is silence, which would be learnt as such."""

_MOST = 10


def report(plan: Plan, options: DatasetOptions) -> Iterator[str]:
    """Lines of the report: clips by bucket, seconds, frame rates, audio, and warnings with their place.

    Raises ValueError that names all clips whose audio cannot be read.
    """
    clips = plan.clips
    counts = Counter(clip.name for clip in clips)
    total = sum(clip.seconds for clip in clips)
    yield f"{len(clips)} clips of {len(plan.rows)} entries, {total:.1f} s"
    for name, count in sorted(counts.items()):
        seconds = sum(clip.seconds for clip in clips if clip.name == name)
        yield f"  {name:16} {count:5} clips  {seconds:8.1f} s"
    repeated = [f"{row.where}: {row.repeats} times" for row in plan.rows if row.repeats > 1]
    yield from _listed("repeated in each epoch", repeated)
    rates = Counter(f"{clip.source.fps:.6g}" for clip in clips if clip.bucket is not None)
    if rates:
        own = "" if options.fps is None else f", resampled to {options.fps:g}"
        yield "fps: " + ", ".join(f"{rate} ({n})" for rate, n in sorted(rates.items())) + own
    with_audio, off = sum(clip.audio_s is not None for clip in clips), options.audio == "off"
    others = "that of videos is off, they" if off else "the others"
    yield f"audio: {with_audio} of {len(clips)} clips" + (
        "" if with_audio == len(clips) else f"; {others} train the video alone, with no audio stream"
    )
    yield from _loudness(clips)
    yield from _listed(
        "audio that ends before the frames, which silence fills",
        [f"{place_of(c)}: the last {c.silent_s:.2f} s" for c in clips if c.silent_s],
    )
    yield from _listed("skipped", plan.skipped)
    # Where audio is off nothing is amiss with clips that train without it.
    lacking_audio = [place_of(c) for c in clips if c.bucket and c.audio_s is None and not off]
    yield from _listed("without audio", lacking_audio)
    if options.trigger:
        lacking = [
            row.where for row in plan.rows for text in row.captions if not has_trigger(text, options.trigger)
        ]
        yield from _listed(f"captions without {options.trigger!r}, which is put in front", lacking)
        if is_ordinary(options.trigger):
            yield ordinary_text(options.trigger)
    short = [
        row.where for row in plan.rows if any(len(text.split()) < SHORT_CAPTION for text in row.captions)
    ]
    yield from _listed(f"captions of fewer than {SHORT_CAPTION} words", short)
    yield from _listed(
        "enlarged, which blurs", [f"{c.row.where}: x{c.enlarged:.2f}" for c in clips if c.enlarged > 1.01]
    )
    yield from _listed(
        "more than a quarter of the frame cut away",
        [f"{c.row.where}: {c.cropped:.0%}" for c in clips if c.cropped > 0.25],
    )
    yield from _listed("equal files", _duplicates(plan))


def place_of(clip: PlannedClip) -> str:
    """The entry of a clip, and where in its file it begins if that is not the start."""
    return f"{clip.row.where} from {clip.start_s:.2f} s" if clip.start_s else clip.row.where


def _loudness(clips: Sequence[PlannedClip]) -> Iterator[str]:
    """A line with the loudness of the audio that is trained, and the clips whose audio is silence.

    Raises ValueError that names all clips whose audio cannot be read.
    """
    levels: dict[int, float] = {}
    errors: list[str] = []
    for number, clip in enumerate(clips):
        if clip.audio_s is None:
            continue
        try:
            levels[number] = _level(clip)
        except ValueError as error:
            errors.append(f"{clip.row.where}: {error}")
    if errors:
        # Chunks of one damaged file say the same.
        raise ValueError("\n".join(dict.fromkeys(errors)))
    heard = sorted(level for level in levels.values() if level > SILENCE_DB)
    if heard:
        middle = heard[len(heard) // 2]
        yield f"loudness: {middle:.0f} dB, from {heard[0]:.0f} to {heard[-1]:.0f}"
    silent = [place_of(clips[number]) for number, level in levels.items() if level <= SILENCE_DB]
    yield from _listed("silent audio, which would be learnt (remove it to train the video alone)", silent)


def _level(clip: PlannedClip) -> float:
    """The root mean square of the audio of a clip, in decibels of full scale.

    Raises ValueError if it cannot be read.
    """
    waveform, _ = read_clip_audio(clip)
    mean = float(waveform.double().square().mean()) if waveform.numel() else 0.0
    return 10 * math.log10(max(mean, 1e-12))


def _listed(what: str, places: list[str] | tuple[str, ...]) -> Iterator[str]:
    """A heading with the number of places, then the first ten of them; nothing if there are none."""
    if not places:
        return
    yield f"{what}: {len(places)}"
    yield from (f"  {place}" for place in places[:_MOST])
    if len(places) > _MOST:
        yield f"  ... and {len(places) - _MOST} more"


def _duplicates(plan: Plan) -> list[str]:
    """Entries whose main file has the same content as an earlier one."""
    first: dict[str, str] = {}
    texts = []
    for row in plan.rows:
        main = row.video or row.audio
        assert main is not None
        key = identity([main])
        if key in first:
            texts.append(f"{row.where}: the same as {first[key]}")
        first.setdefault(key, row.where)
    return texts
