"""Chooses model, files, size, length and steps for a GPU, by the memory plans of what could be run on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, TypeAlias, cast

import torch

from ..memory import RELEASED, STORED, MemoryPlan, Released, Stored, plan_memory, released_size, size_text
from ..memory.fitting import SHORTEST_S, shorter
from ..released.table import model_of, released_models
from ..sampling.schedules import FIXED_SIGMAS
from ..shapes import ClipPlan, plan_clip
from .recipes import Kind, recipe_for

Quality: TypeAlias = Literal["fast", "balanced", "best"]

SIZES: Final = ((1920, 1088), (1536, 896), (1280, 704), (960, 576), (768, 512), (512, 320), (384, 256))
"""Widths and heights that are tried in turn: multiples of 64, as two stages need."""
TRAINED_S: Final = 20.0
"""Seconds of the longest clips that the models of LTX-2 are released for."""
LTXV_TRAINED_S, LTXV_WIDTH = 257 / 30, 1280
"""Seconds of the longest clips and width of the largest ones that LTX-Video is released for."""


@dataclass(frozen=True)
class _Files:
    """Files of a released model: its name in ``ltx2 models list``, and how its blocks are stored."""

    name: str
    release: Released
    kind: Kind
    stored: Stored

    @property
    def silent(self) -> bool:
        """Whether it is LTX-Video, which has no audio."""
        return self.release.startswith("ltxv")

    @property
    def model(self) -> str:
        """The model in words."""
        return f"LTX-Video {self.release[5:].upper()}" if self.silent else f"LTX-{self.release}"


def _released_files() -> list[_Files]:
    """All released models: those with audio first, the newest or largest first, then the most bits first."""
    found = [
        _Files(
            model.name,
            cast("Released", model.size),
            "distilled" if model.distilled else "dev",
            cast("Stored", model.stored),
        )
        for model in released_models().values()
    ]
    order = (*(one for one in reversed(RELEASED) if one[0].isdigit()), "ltxv-13b", "ltxv-2b")
    return sorted(found, key=lambda files: (order.index(files.release), -STORED[files.stored]))


@dataclass(frozen=True)
class _Level:
    """What a quality asks for: the kind of weights, the largest size, and which files of a model come first.

    With ``whole`` files of fewer bits that need no copies to the GPU are better than files of more bits that
    do, and a smaller LTX-Video than a larger one that does. With ``small`` the smaller one comes first
    anyway. ``why`` says why the kind of weights is chosen.
    """

    kind: Kind
    largest: tuple[int, int]
    whole: bool
    why: str
    small: bool = False


QUALITIES: Final[dict[Quality, _Level]] = {
    "fast": _Level(
        "distilled", (960, 576), True, "distilled weights need 8 steps and no guidance", small=True
    ),
    "balanced": _Level("distilled", (1280, 704), True, "distilled weights need 8 steps and no guidance"),
    "best": _Level("dev", (1920, 1088), False, "full weights with guidance follow the prompt best"),
}


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """A run that fits a GPU: the released model, the clip, its sampling steps, and its memory plan.

    ``model`` is its name in ``ltx2 models list``, ``release`` the generation or size of it, and ``stored``
    how its blocks are stored. ``steps`` and ``stage2_steps`` are those of the two stages; a run of one stage
    has 0 in the second. ``cfg`` is its guidance scale. ``reasons`` are sentences on why each was chosen.
    ``image`` says that the clip begins with an image.
    """

    model: str
    release: Released
    stored: Stored
    clip: ClipPlan
    steps: int
    stage2_steps: int
    cfg: float
    image: bool
    memory: MemoryPlan
    reasons: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files of the model, as ComfyUI's folders have them."""
        return tuple(file.name for file in model_of(self.model).files)

    @property
    def offload(self) -> str:
        """What is offloaded to system memory: "none", "text encoder", or "blocks" of the transformer."""
        if self.memory.streamed:
            return "blocks"
        return "text encoder" if any(stage.host for stage in self.memory.stages) else "none"

    @property
    def command(self) -> str:
        """The command line that runs it; words in capitals are for the user to fill in."""
        clip = self.clip
        words = [f"ltx2 generate --model {self.model} --prompt PROMPT"]
        # Without --width and --height the size would follow the image.
        words += ["--image IMAGE"] if self.image else []
        words += [f"--width {clip.width} --height {clip.height} --frames {clip.frames} --fps {clip.fps:g}"]
        if self.offload != "none":
            words.append(f"--max-memory {size_text(self.memory.budget).replace(' ', '')}")
        return " ".join([*words, "-o clip.mp4"])

    def as_dict(self) -> dict[str, object]:
        """The choice as plain values, with ``notes``, a list of the reasons."""
        return {
            "pipeline": "image to video" if self.image else "text to video",
            "model": self.model,
            "files": list(self.files),
            "dtype": "bfloat16",
            "stored": self.stored,
            "offload": self.offload,
            "width": self.clip.width,
            "height": self.clip.height,
            "num_frames": self.clip.frames,
            "fps": self.clip.fps,
            "steps": self.steps,
            "stage2_steps": self.stage2_steps,
            "cfg": self.cfg,
            "memory_bytes": self.memory.peak,
            "notes": list(self.reasons),
        }


def choose_run(
    budget: int,
    *,
    seconds: float = 5.0,
    quality: Quality = "balanced",
    image: bool = False,
    audio: bool = True,
    lora: Released | None = None,
    system_memory: int | None = None,
) -> RunChoice:
    """Choose what to run within ``budget`` bytes of GPU memory, for a clip of ``seconds``.

    ``quality`` decides between distilled and full weights, and the largest size. Sizes are tried from that
    down, until the plan of a file of the model fits; if none does, the clip becomes shorter. Without
    ``audio`` LTX-Video is chosen, whose models are smaller; with it that is the last resort. ``lora`` is the
    generation that a LoRA was trained for, or the size of LTX-Video; only such models are then considered.
    ``system_memory`` is how many bytes may be offloaded, None for any number.

    Raises ValueError if ``seconds`` is not positive, for an unknown ``quality``, if ``lora`` is for models
    with audio and none is wanted, and NothingFits, a ValueError, if not even a second of the smallest size
    fits.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be positive; got {seconds}")
    wishes = _Wishes(_Room(budget, system_memory), QUALITIES[quality], seconds, audio, lora)
    models = _models_for(wishes)
    for files, length, size in product(models, shorter(seconds), SIZES):
        usable = [one for one in files if size[0] <= wishes.largest(one)]
        plans = [(one, wishes.room.plan(one, _clip(one, size, length))) for one in usable]
        fitting = [pair for pair in plans if wishes.room.fault(pair[1]) is None]
        whole = [pair for pair in fitting if not pair[1].streamed] if wishes.level.whole else []
        for one, memory in whole or fitting:
            clip = _clip(one, size, length)
            return _choice(one, clip, memory, _reasons(wishes, plans, one, clip, memory), image=image)
    plans = [
        (one, wishes.room.plan(one, _clip(one, SIZES[-1], SHORTEST_S))) for files in models for one in files
    ]
    smallest, memory = min(plans, key=lambda pair: pair[1].peak)
    raise NothingFits(
        f"no clip fits {wishes.room}: {SHORTEST_S:g} s of {SIZES[-1][0]}x{SIZES[-1][1]} with {smallest.name} "
        f"{wishes.room.fault(memory)}"
    )


def _clip(files: _Files, size: tuple[int, int], seconds: float) -> ClipPlan:
    recipe = recipe_for(files.release, files.kind)
    return plan_clip(*size, seconds=seconds, fps=recipe.fps, stages=recipe.stages)


@dataclass(frozen=True)
class _Room:
    """The memory that a run may use: bytes of the GPU, and of the system (None for any number)."""

    budget: int
    system: int | None

    def __str__(self) -> str:
        system = "" if self.system is None else f" and {size_text(self.system)} of system memory"
        return f"{size_text(self.budget)}{system}"

    def plan(self, files: _Files, clip: ClipPlan) -> MemoryPlan:
        size = released_size(files.release, files.stored)
        two = recipe_for(files.release, files.kind).stages == 2
        clips = [clip.half(), clip] if two else [clip]
        return plan_memory(self.budget, size, clips=clips, dtype=torch.bfloat16)

    def fault(self, memory: MemoryPlan) -> str | None:
        """Why a plan cannot be run: what it needs of the GPU or of the system; None if it can."""
        if not memory.fits:
            return f"needs {size_text(memory.peak)} of GPU memory"
        host = max(stage.host for stage in memory.stages)
        if self.system is not None and host > self.system:
            return f"needs {size_text(host)} of system memory"
        return None


class NothingFits(ValueError):
    """No clip fits the memory that may be used."""


@dataclass(frozen=True)
class _Wishes:
    """What :func:`choose_run` was asked for."""

    room: _Room
    level: _Level
    seconds: float
    audio: bool
    lora: Released | None

    def largest(self, files: _Files) -> int:
        """Width of the largest clips to try with these files."""
        return min(self.level.largest[0], LTXV_WIDTH if files.silent else self.level.largest[0])


def _models_for(wishes: _Wishes) -> list[list[_Files]]:
    """The files of the models to try in turn.

    With audio they are those of the newest LTX-2 of the wanted kind, then of the other kind, then LTX-Video;
    without audio LTX-Video alone, both of its sizes together, of one kind and then of the other. Only models
    that a LoRA fits are returned. Raises ValueError if there is none.
    """
    usable = [one for one in _released_files() if wishes.lora in (None, one.release)]
    models = []
    for silent in (False, True) if wishes.audio else (True,):
        for same in (True, False):
            kind = [one for one in usable if (one.kind == wishes.level.kind) == same and one.silent == silent]
            if silent:
                models.append(
                    sorted(kind, key=lambda one: one.release != "ltxv-2b") if wishes.level.small else kind
                )
            else:
                models.append([one for one in kind if one.release == kind[0].release])
    found = [files for files in models if files]
    if not found:
        raise ValueError(
            f"a LoRA for {wishes.lora} needs a model with audio, so that audio cannot be left out"
        )
    return found


def _choice(
    files: _Files, clip: ClipPlan, memory: MemoryPlan, reasons: list[str], *, image: bool
) -> RunChoice:
    recipe = recipe_for(files.release, files.kind)
    two, listed = recipe.stages == 2, recipe.first_of_two_sigmas
    return RunChoice(
        model=files.name,
        release=files.release,
        stored=files.stored,
        clip=clip,
        steps=len(FIXED_SIGMAS[listed]) - 1 if two and listed else recipe.steps,
        stage2_steps=len(FIXED_SIGMAS[recipe.stage2_sigmas]) - 1 if two else 0,
        cfg=recipe.cfg,
        image=image,
        memory=memory,
        reasons=tuple(reasons),
    )


def _reasons(
    wishes: _Wishes,
    plans: Sequence[tuple[_Files, MemoryPlan]],
    chosen: _Files,
    clip: ClipPlan,
    memory: MemoryPlan,
) -> list[str]:
    """Say why the model, its files, the size and the length were chosen, one sentence each.

    ``plans`` are those of all files of the model for ``clip``, and ``memory`` that of the ``chosen`` one.
    """
    room, level, seconds = wishes.room, wishes.level, wishes.seconds
    of_lora = ", for which the LoRA was trained" if wishes.lora else ""
    why = level.why if chosen.kind == level.kind else f"no model of {level.kind} weights fits, or is released"
    if chosen.silent and wishes.audio and not wishes.lora:
        why = f"no model with audio fits, and this one has none; {why}"
    reasons = [f"model: {chosen.model}{of_lora}; {why}"]
    most, whole = plans[0]
    if len(plans) == 1:
        reasons.append(f"files: {chosen.stored}, as the model is released")
    elif chosen is most:
        reasons.append(f"files: {chosen.stored}, all bits of the model")
    else:
        copied = f"copies {whole.blocks - whole.resident_blocks} of {whole.blocks} blocks in each step"
        of = "" if most.release == chosen.release else f" of {most.model}"
        reasons.append(f"files: {chosen.stored}, since {most.stored}{of} {room.fault(whole) or copied}")

    def fault(size: tuple[int, int], length: float) -> str | None:
        return room.fault(room.plan(chosen, _clip(chosen, size, length)))

    larger = next((one for one in reversed(SIZES) if clip.width < one[0] <= wishes.largest(chosen)), None)
    size = f"size: {clip.width}x{clip.height}"
    if larger is None:
        reasons.append(f"{size}, the largest of this quality")
    else:
        reasons.append(f"{size}, since {larger[0]}x{larger[1]} {fault(larger, clip.seconds)}")
    if shorter := fault((clip.width, clip.height), seconds):
        reasons.append(f"length: {clip.seconds:.3g} s, since {seconds:g} s {shorter}")
    trained = LTXV_TRAINED_S if chosen.silent else TRAINED_S
    if clip.seconds > trained:
        reasons.append(f"length: models are made for up to {trained:.3g} s; ltx2 long samples it in windows")
    reasons.append(f"memory: {memory.verdict}")
    return reasons
