"""Chooses model, files, size, length and steps for a GPU, by the memory plans of what could be run on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, TypeAlias

import torch

from ..memory import MemoryPlan, Released, Stored, plan_memory, released_size, size_text
from ..memory.fitting import SHORTEST_S, shorter
from ..shapes import ClipPlan, plan_clip
from .recipes import Kind, recipe_for

Quality: TypeAlias = Literal["fast", "balanced", "best"]

SIZES: Final = ((1920, 1088), (1536, 896), (1280, 704), (960, 576), (768, 512), (512, 320), (384, 256))
"""Widths and heights that are tried in turn: multiples of 64, as two stages need."""
TRAINED_S: Final = 20.0
"""Seconds of the longest clips that the models are released for."""


@dataclass(frozen=True)
class _Files:
    """Files of a released model: its name in ``ltx2 models list``, and how its blocks are stored."""

    name: str
    generation: Released
    kind: Kind
    stored: Stored


_FILES: Final = (
    _Files("ltx-2.5-distilled", "2.5", "distilled", "int8"),
    _Files("ltx-2.3-distilled", "2.3", "distilled", "bf16"),
    _Files("ltx-2.3-distilled-fp8", "2.3", "distilled", "fp8"),
    _Files("ltx-2.3", "2.3", "dev", "bf16"),
    _Files("ltx-2.3-fp8", "2.3", "dev", "fp8"),
    _Files("ltx-2.0-distilled", "2.0", "distilled", "bf16"),
    _Files("ltx-2.0-distilled-fp8", "2.0", "distilled", "fp8"),
    _Files("ltx-2.0", "2.0", "dev", "bf16"),
    _Files("ltx-2.0-fp8", "2.0", "dev", "fp8"),
)
"""Released models, the newest first, and of each the files with the most bits first."""


@dataclass(frozen=True)
class _Level:
    """What a quality asks for: the kind of weights, the largest size, and which files of a model come first.

    With ``whole`` files of fewer bits that need no copies to the GPU are better than files of more bits that
    do. ``why`` says why the kind of weights is chosen.
    """

    kind: Kind
    largest: tuple[int, int]
    whole: bool
    why: str


QUALITIES: Final[dict[Quality, _Level]] = {
    "fast": _Level("distilled", (960, 576), True, "distilled weights need 8 steps and no guidance"),
    "balanced": _Level("distilled", (1280, 704), True, "distilled weights need 8 steps and no guidance"),
    "best": _Level("dev", (1920, 1088), False, "full weights with guidance follow the prompt best"),
}


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """A run that fits a GPU: the released model, the clip, its sampling steps, and its memory plan.

    ``steps`` and ``stage2_steps`` are those of the two stages. ``reasons`` are sentences on why each was
    chosen. ``image`` says that the clip begins with an image.
    """

    model: str
    stored: Stored
    clip: ClipPlan
    steps: int
    stage2_steps: int
    image: bool
    memory: MemoryPlan
    reasons: tuple[str, ...]

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
            "dtype": "bfloat16",
            "stored": self.stored,
            "offload": self.offload,
            "width": self.clip.width,
            "height": self.clip.height,
            "num_frames": self.clip.frames,
            "fps": self.clip.fps,
            "steps": self.steps,
            "stage2_steps": self.stage2_steps,
            "memory_bytes": self.memory.peak,
            "notes": list(self.reasons),
        }


def choose_run(
    budget: int,
    *,
    seconds: float = 5.0,
    quality: Quality = "balanced",
    image: bool = False,
    lora: Released | None = None,
    system_memory: int | None = None,
) -> RunChoice:
    """Choose what to run within ``budget`` bytes of GPU memory, for a clip of ``seconds``.

    ``quality`` decides between distilled and full weights, and the largest size. Sizes are tried from that
    down, until the plan of a file of the model fits; if none does, the clip becomes shorter. ``lora`` is the
    generation that a LoRA was trained for; only models of that generation are then considered.
    ``system_memory`` is how many bytes may be offloaded, None for any number.

    Raises ValueError if ``seconds`` is not positive, for an unknown ``quality``, or if not even a second of
    the smallest size fits.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be positive; got {seconds}")
    room = _Room(budget, system_memory)
    level = QUALITIES[quality]
    models = _models_for(level.kind, lora)
    sizes = [size for size in SIZES if size[0] <= level.largest[0]]
    for files, length, (width, height) in product(models, shorter(seconds), sizes):
        clip = plan_clip(width, height, seconds=length, stages=2)
        plans = [(one, room.plan(one, clip)) for one in files]
        fitting = [pair for pair in plans if room.fault(pair[1]) is None]
        whole = [pair for pair in fitting if not pair[1].streamed] if level.whole else []
        for one, memory in whole or fitting:
            reasons = _reasons(room, level, plans, one, clip, memory, seconds, lora)
            return _choice(one, clip, memory, reasons, image=image)
    least = plan_clip(*SIZES[-1], seconds=SHORTEST_S, stages=2)
    plans = [(one, room.plan(one, least)) for files in models for one in files]
    smallest, memory = min(plans, key=lambda pair: pair[1].peak)
    raise ValueError(
        f"no clip fits {room}: {SHORTEST_S:g} s of {SIZES[-1][0]}x{SIZES[-1][1]} with {smallest.name} "
        f"{room.fault(memory)}"
    )


@dataclass(frozen=True)
class _Room:
    """The memory that a run may use: bytes of the GPU, and of the system (None for any number)."""

    budget: int
    system: int | None

    def __str__(self) -> str:
        system = "" if self.system is None else f" and {size_text(self.system)} of system memory"
        return f"{size_text(self.budget)}{system}"

    def plan(self, files: _Files, clip: ClipPlan) -> MemoryPlan:
        size = released_size(files.generation, files.stored)
        return plan_memory(self.budget, size, clips=[clip.half(), clip], dtype=torch.bfloat16)

    def fault(self, memory: MemoryPlan) -> str | None:
        """Why a plan cannot be run: what it needs of the GPU or of the system; None if it can."""
        if not memory.fits:
            return f"needs {size_text(memory.peak)} of GPU memory"
        host = max(stage.host for stage in memory.stages)
        if self.system is not None and host > self.system:
            return f"needs {size_text(host)} of system memory"
        return None


def _models_for(kind: Kind, lora: Released | None) -> list[list[_Files]]:
    """The files of the models to try in turn: the newest of this kind, then the newest of the other kind.

    Only models of the generation of ``lora`` are returned if that is not None.
    """
    usable = [one for one in _FILES if lora in (None, one.generation)]
    models = []
    for same in (True, False):
        of_kind = [one for one in usable if (one.kind == kind) == same]
        models.append([one for one in of_kind if one.generation == of_kind[0].generation])
    return [files for files in models if files]


def _choice(
    files: _Files, clip: ClipPlan, memory: MemoryPlan, reasons: list[str], *, image: bool
) -> RunChoice:
    from ..sampling.schedules import FIXED_SIGMAS

    recipe = recipe_for(files.generation, files.kind)
    return RunChoice(
        model=files.name,
        stored=files.stored,
        clip=clip,
        steps=recipe.steps,
        stage2_steps=len(FIXED_SIGMAS[recipe.stage2_sigmas]) - 1,
        image=image,
        memory=memory,
        reasons=tuple(reasons),
    )


def _reasons(
    room: _Room,
    level: _Level,
    plans: Sequence[tuple[_Files, MemoryPlan]],
    chosen: _Files,
    clip: ClipPlan,
    memory: MemoryPlan,
    seconds: float,
    lora: Released | None,
) -> list[str]:
    """Say why the model, its files, the size and the length were chosen, one sentence each.

    ``plans`` are those of all files of the model for ``clip``, and ``memory`` that of the ``chosen`` one.
    """
    of_lora = ", for which the LoRA was trained" if lora else ""
    why = level.why if chosen.kind == level.kind else f"no model of {level.kind} weights fits, or is released"
    reasons = [f"model: LTX-{chosen.generation}{of_lora}; {why}"]
    most, whole = plans[0]
    if len(plans) == 1:
        reasons.append(f"files: {chosen.stored}, as the model is released")
    elif chosen is most:
        reasons.append(f"files: {chosen.stored}, all bits of the model")
    else:
        copied = f"copies {whole.blocks - whole.resident_blocks} of {whole.blocks} blocks in each step"
        reasons.append(f"files: {chosen.stored}, since {most.stored} {room.fault(whole) or copied}")

    def fault(width: int, height: int, length: float) -> str | None:
        return room.fault(room.plan(chosen, plan_clip(width, height, seconds=length, stages=2)))

    larger = next((size for size in reversed(SIZES) if clip.width < size[0] <= level.largest[0]), None)
    size = f"size: {clip.width}x{clip.height}"
    if larger is None:
        reasons.append(f"{size}, the largest of this quality")
    else:
        reasons.append(f"{size}, since {larger[0]}x{larger[1]} {fault(*larger, clip.seconds)}")
    if shorter := fault(clip.width, clip.height, seconds):
        reasons.append(f"length: {clip.seconds:.3g} s, since {seconds:g} s {shorter}")
    if clip.seconds > TRAINED_S:
        reasons.append(f"length: models are made for up to {TRAINED_S:g} s; ltx2 long samples it in windows")
    reasons.append(f"memory: {memory.verdict}")
    return reasons
