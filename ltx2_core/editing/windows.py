"""Divides a long clip into overlapping windows of video and audio, each sampled by one run.

Letters: F latent frames, H W latent rows and columns, T audio latents.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..media.atomic import replacing
from ..shapes import AUDIO_LATENTS_PER_SECOND, TEMPORAL_SCALE, ClipPlan, frames_of, latent_frames_of
from ..storage.files import JsonObject, JsonValue, read_object
from ..storage.header import read_header
from ..storage.identity import identity
from ..storage.private import locked, private_folder, prune_parts
from ..storage.writing import write_tensors
from ..types import AVLatent
from .protocols import LongPipeline

log = logging.getLogger(__name__)

OVERLAP_FRAMES = 24
"""How many pixel frames windows share where nothing is said and they are long enough."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One sampling run of a long clip, number ``index``; ``clip`` is the size and length of the run.

    ``start`` and ``audio_start`` are the positions, in the latents of the whole clip, of the window's first
    latent frame and first audio latent. The window's first ``overlap`` latent frames and ``audio_overlap``
    audio latents repeat the end of the window before. The finished clip uses the first ``fresh`` latent
    frames and ``audio_fresh`` audio latents of the window; those after them come from the next window.
    """

    index: int
    start: int
    audio_start: int
    clip: ClipPlan
    overlap: int = 0
    audio_overlap: int = 0
    fresh: int = 0
    audio_fresh: int = 0

    @property
    def first_frame(self) -> int:
        """The number of the whole clip's pixel frame at which the window begins."""
        return self.start * TEMPORAL_SCALE

    @property
    def prompt_s(self) -> float:
        """The second of the whole clip whose prompt the window uses: the middle of the new frames."""
        new = frames_of(self.overlap) if self.overlap else 0
        return (self.first_frame + (new + self.clip.frames) / 2) / self.clip.fps

    def frame_within(self, frame: int) -> int | None:
        """Convert the number of a pixel frame of the whole clip to its number in this window.

        None if the frame is not in this window, or is the first frame of a window other than the first: the
        finished clip has that frame from the window before.
        """
        own = frame - self.first_frame
        # Frame 0 of a later window is one of the window before, from which its latent frame is taken.
        return own if 0 <= own < self.clip.frames and (own or not self.start) else None

    def blended(self, before: AVLatent, latent: AVLatent) -> AVLatent:
        """Return ``latent``, that of this window, with its overlap cross-faded with the previous window.

        ``before`` is the latent of the previous window. The first latent frame of the overlap is taken from
        ``before`` without a fade: in this window that latent frame is the start of a clip and stands for one
        pixel frame, while in the whole clip it has to stand for eight.
        """
        video, audio = latent.video, latent.audio
        if video is not None and before.video is not None:
            video = _faded(before.video[:, :, -self.overlap :], video, skip=1)
        if audio is not None and before.audio is not None and self.audio_overlap > 0:
            audio = _faded(before.audio[:, :, -self.audio_overlap :], audio, skip=0)
        return AVLatent(video, audio)


def most_overlap(window_frames: int) -> int:
    """The largest number of pixel frames that a window of ``window_frames`` may share with the one before."""
    # A longer window with a single new latent frame would be sampled for eight frames.
    return max(2, latent_frames_of(window_frames) - 2) * TEMPORAL_SCALE


def plan_windows(clip: ClipPlan, window_frames: int, overlap_frames: int) -> tuple[Window, ...]:
    """Divide a clip into windows of ``window_frames`` (8k + 1) pixel frames.

    Each window but the first repeats the last ``overlap_frames`` (8k) frames of the window before; the last
    window may be shorter. Raises ValueError unless ``window_frames`` is 8k + 1 and at least 17, and unless
    ``overlap_frames`` is a multiple of 8, at least 16 and at most ``window_frames`` - 9 (16 for windows of 17
    frames).
    """
    length, overlap = latent_frames_of(window_frames), overlap_frames // TEMPORAL_SCALE
    # Two latent frames are the least overlap, and at least one has to be new.
    if window_frames != frames_of(length) or length < 3:
        raise ValueError(f"window_frames={window_frames} must be 8k + 1 and at least 17")
    most = most_overlap(window_frames)
    if overlap_frames % TEMPORAL_SCALE or not 16 <= overlap_frames <= most:
        raise ValueError(
            f"overlap_frames={overlap_frames} must be a multiple of {TEMPORAL_SCALE}, at least 16 and at "
            f"most {most} in a window of {window_frames}"
        )
    # The last window is shorter rather than moved: moving it would change its overlap.
    starts = [0]
    while starts[-1] + length < clip.latent_frames:
        # Starts are whole latent frames, because latents of a window are joined and not its pixels.
        starts.append(starts[-1] + length - overlap)
    windows = [_window_at(clip, index, start, length) for index, start in enumerate(starts)]
    # Rounding each start by itself could leave the audio of the last window short of the clip's end.
    last = windows[-1]
    windows[-1] = replace(last, audio_start=clip.audio_latents - last.clip.audio_latents)
    for before, after in pairwise(list(windows)):
        shared = before.audio_start + before.clip.audio_latents - after.audio_start
        windows[before.index] = replace(
            windows[before.index],
            fresh=after.start - before.start,
            audio_fresh=after.audio_start - before.audio_start,
        )
        windows[after.index] = replace(after, overlap=overlap, audio_overlap=shared)
    last = windows[-1]
    windows[-1] = replace(last, fresh=last.clip.latent_frames, audio_fresh=last.clip.audio_latents)
    return tuple(windows)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where finished windows are saved: in ``folder``, or in ``spare`` if the disk of ``folder`` is full.

    None as ``spare`` is no second folder.
    """

    folder: Path
    spare: Path | None = None


class WindowStore:
    """A folder with the latents of finished windows; each file is complete or absent.

    ``settings`` are JSON values of everything that decides the clip. ``models`` are JSON values that identify
    the networks; folders of earlier versions have none. ``spare`` is a folder on another disk, for windows
    that no longer fit on this one; they are saved in a subfolder of it that is named by a digest of
    ``settings`` and ``models``. Raises ValueError if the folder holds windows of a clip with other settings
    or of other models.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, JsonValue],
        models: Mapping[str, JsonValue] | None = None,
        *,
        spare: Path | None = None,
    ) -> None:
        self.folder = folder
        # Windows of another clip may be left there, and the files have the same names.
        self.spare = None if spare is None else spare / clip_digest(settings, models)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Sorted keys, so that equal settings are equal text.
        plan, text = folder / "clip.json", json.dumps(settings, sort_keys=True, indent=1)
        # Windows of another clip would be joined without an error, with a visible jump.
        if plan.exists() and plan.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{folder} holds windows of a clip with other settings: use another folder, or empty it"
            )
        if not plan.exists():
            with replacing(plan) as temporary:
                Path(temporary).write_text(text, encoding="utf-8")
        if models is not None:
            self._check_models(models)

    def _check_models(self, models: Mapping[str, JsonValue]) -> None:
        # Apart from the settings, so that folders of earlier versions can still be resumed.
        path, text = self.folder / "models.json", json.dumps(models, sort_keys=True, indent=1)
        if path.exists():
            before = read_object(path)
            if changed := _differences(before, json.loads(text)):
                raise ValueError(
                    f"{self.folder} holds windows of other models ({', '.join(changed)} changed): use the "
                    "same files and options, or another folder, or empty it"
                )
            return
        if any(self.folder.glob("window_*")):
            log.warning(
                "%s does not say which models its windows are of (it is of an earlier version): continuing "
                "with those of this run",
                self.folder,
            )
        with replacing(path) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which no other run can write to this folder.

        At its start unfinished files of killed runs are removed. Raises ValueError if another run is writing.
        """
        with locked(self.folder):
            prune_parts(self.folder)
            yield

    @classmethod
    def temporary(cls, settings: Mapping[str, JsonValue]) -> WindowStore:
        """Make a store in a temporary folder, which is deleted together with the store."""
        folder = tempfile.TemporaryDirectory(prefix="ltx2_long_")
        store = cls(Path(folder.name), settings)
        # The folder is deleted with its object, which must live as long as the store.
        store._owned = folder
        return store

    _owned: tempfile.TemporaryDirectory[str] | None = None

    def has(self, index: int) -> bool:
        """Whether window number ``index`` is finished, by the header of its file.

        A file whose header cannot be read, or that is shorter than it states, is deleted and counts as none.
        """
        path = self._path(index)
        if not path.is_file():
            return False
        try:
            # The header states the size of the file, which finds a truncated one without reading it.
            read_header(path)
        except ValueError as error:
            log.warning("window %d is sampled again: %s", index, error)
            # A damaged file would else be found again at each resume.
            path.unlink()
            return False
        return True

    def save(self, index: int, latent: AVLatent) -> None:
        """Write the latents of window number ``index``, or to the folder ``spare`` if writing fails.

        Raises OSError, with advice on what to do, if that fails too or there is no such folder.
        """
        streams = {"video": latent.video, "audio": latent.audio}
        tensors = {k: t for k, t in streams.items() if t is not None}
        try:
            write_tensors(self._file(self.folder, index), tensors)
        except OSError as error:
            if self.spare is None:
                raise
            log.warning("window %d is saved in %s instead: %s", index, self.spare, error)
            write_tensors(self._file(private_folder(self.spare), index), tensors)

    def load(self, index: int) -> AVLatent:
        tensors = load_file(self._path(index))
        return AVLatent(tensors.get("video"), tensors.get("audio"))

    def _path(self, index: int) -> Path:
        """The path of window number ``index``: its file in either folder, or where it would be written."""
        path = self._file(self.folder, index)
        if self.spare is not None and not path.exists() and self._file(self.spare, index).exists():
            return self._file(self.spare, index)
        return path

    @staticmethod
    def _file(folder: Path, index: int) -> Path:
        return folder / f"window_{index:05d}.safetensors"


def clip_digest(settings: Mapping[str, JsonValue], models: Mapping[str, JsonValue] | None) -> str:
    """A name of 16 hexadecimal digits for the folder of a clip's windows: a digest of both arguments."""
    return sha256(json.dumps([settings, models], sort_keys=True).encode()).hexdigest()[:16]


def models_of(pipeline: LongPipeline) -> JsonObject:
    """JSON values that identify the networks and the LoRAs of a pipeline by digests."""
    return {
        # File names are in the settings; digests also notice other weights of the same name.
        **pipeline.networks.identity(),
        "loras": [[identity([lora.path]), *lora.settings[1:]] for lora in pipeline.loras],
    }


def _differences(before: Any, after: Any, name: str = "") -> list[str]:
    """The keys of the innermost entries in which two JSON values differ.

    ``name`` is the key of the values themselves, "" for the outermost ones.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = sorted(before.keys() | after.keys())
        return [n for key in names for n in _differences(before.get(key), after.get(key), key)]
    return [] if before == after else [name]


def video_pieces(windows: Sequence[Window], store: WindowStore) -> Iterator[Tensor]:
    """Yield the video latent of the whole clip in pieces (1, 128, f, H, W), one from each window in order."""
    for window in windows:
        video = store.load(window.index).video
        assert video is not None
        yield video[:, :, : window.fresh]


def audio_pieces(windows: Sequence[Window], store: WindowStore) -> Iterator[Tensor]:
    """Yield the audio latent of the whole clip in pieces (1, 8, t, 16), one from each window in order."""
    for window in windows:
        audio = store.load(window.index).audio
        assert audio is not None
        yield audio[:, :, : window.audio_fresh]


def _window_at(clip: ClipPlan, index: int, start: int, length: int) -> Window:
    """Make window number ``index``, which starts at latent frame ``start`` of the clip.

    Its overlaps are not set. The window has ``length`` latent frames, or fewer at the end of the clip.
    """
    frames = frames_of(min(length, clip.latent_frames - start))
    # Audio latents have a rate of their own, 25 per second, so that a start in frames is seldom whole there.
    audio_start = round(start * TEMPORAL_SCALE / clip.fps * AUDIO_LATENTS_PER_SECOND)
    own = replace(clip, frames=frames, changes=())
    return Window(index=index, start=start, audio_start=audio_start, clip=own)


def _faded(old: Tensor, new: Tensor, *, skip: int) -> Tensor:
    """Replace the first latents of ``new`` by a linear fade from ``old`` to ``new``.

    Both are (1, C, F, ...), with time along the third axis, and begin at the same time. The fade is as long
    as ``old``; its first ``skip`` latents are those of ``old`` unchanged. After the fade the latents are
    those of ``new``.
    """
    count = old.shape[2]
    # Neither 0 nor 1 occurs, so that every latent of the fade is a mixture.
    weight = (torch.arange(count - skip) + 1) / (count - skip + 1)
    shape = (1, 1, -1) + (1,) * (new.ndim - 3)
    mixed = torch.lerp(old[:, :, skip:], new[:, :, skip:count], weight.view(shape))
    return torch.cat((old[:, :, :skip], mixed, new[:, :, count:]), dim=2)
