"""What is trained: which streams are generated, under which conditions, with which noise levels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..names import TASK_NAMES
from .conditions import Condition, condition_of, official_condition
from .sigmas import SigmaSampling


@dataclass(frozen=True, kw_only=True)
class StreamObjective:
    """What happens to one stream of a clip.

    A stream that is not ``generated`` is clean and has no loss; the other stream attends to it. Its
    ``conditions`` are then ignored, except for references.
    """

    generated: bool = True
    conditions: tuple[Condition, ...] = ()

    @property
    def references(self) -> tuple[Condition, ...]:
        return tuple(c for c in self.conditions if c.kind == "reference")

    @property
    def intrinsic(self) -> tuple[Condition, ...]:
        """The conditions on tokens of the clip itself, which only a generated stream has."""
        return tuple(c for c in self.conditions if c.kind != "reference") if self.generated else ()


_SIGMAS = SigmaSampling()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training step computes.

    A stream that is None is not computed at all. ``shared_sigma`` uses the noise level of the video for the
    audio too. ``official`` reproduces two properties of the official trainer that lose quality: noise and
    target have the number format of the cached latent, and LTX-2.5 gets no mark on its first latent frame
    although inference sets one. ``legacy`` is the order of the official trainer's older strategies: the first
    frame is chosen before the noise level, and a reference is used in every step.
    """

    video: StreamObjective | None = StreamObjective()
    audio: StreamObjective | None = StreamObjective()
    sigmas: SigmaSampling = _SIGMAS
    shared_sigma: bool = False
    video_weight: float = 1.0
    audio_weight: float = 1.0
    official: bool = False
    legacy: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if there is nothing to generate or a weight is below 0."""
        if not any(stream is not None and stream.generated for stream in (self.video, self.audio)):
            raise ValueError("nothing is trained: neither video nor audio is generated")
        for name, weight in (("video", self.video_weight), ("audio", self.audio_weight)):
            if not weight >= 0:
                raise ValueError(f"{name}_loss_weight={weight} must be 0 or more")

    def of_streams(self, *, video: bool, audio: bool) -> Objective | None:
        """The objective for clips that have only some streams; None if such clips cannot be trained.

        A clip without audio trains the video alone, with no audio stream. It cannot be trained if its other
        stream is the condition of the task, as the audio is for ``a2v``.
        """
        streams = {"video": self.video if video else None, "audio": self.audio if audio else None}
        for name, stream in streams.items():
            own: StreamObjective | None = getattr(self, name)
            # Without the stream that is its condition, nothing of the task is left.
            if own is not None and stream is None and not own.generated:
                return None
        if not any(stream is not None and stream.generated for stream in streams.values()):
            return None
        return replace(self, video=streams["video"], audio=streams["audio"])


_GENERATED, _FROZEN = StreamObjective(), StreamObjective(generated=False)
_REFERENCE = StreamObjective(conditions=(Condition(kind="reference"),))


def _conditioned(*texts: str) -> tuple[Condition, ...]:
    return tuple(condition_of(text)[1] for text in texts)


TASKS: Mapping[str, Objective] = {
    "t2v": Objective(),
    "i2v": Objective(video=StreamObjective(conditions=_conditioned("first_frame:0.5"))),
    "a2v": Objective(audio=_FROZEN),
    "v2a": Objective(video=_FROZEN),
    "t2a": Objective(video=None),
    "v2v": Objective(video=_REFERENCE, audio=None),
    "a2a": Objective(video=None, audio=_REFERENCE),
    "av2av": Objective(video=_REFERENCE, audio=_REFERENCE),
    "extend": Objective(
        video=StreamObjective(conditions=_conditioned("prefix=2")),
        audio=StreamObjective(conditions=_conditioned("prefix=9")),
    ),
    "inpaint": Objective(video=StreamObjective(conditions=_conditioned("mask")), audio=None),
}
"""Objectives by name: what is generated from what. ``v2v`` is an IC-LoRA."""


def objective_of(task: str, conditions: Iterable[str] = (), **changes: Any) -> Objective:
    """Build the objective of a ``task``, a key of ``TASKS``, with further ``conditions`` as users write them.

    "outpaint" is the task ``t2v`` without audio, which needs a condition ``crop``. ``changes`` are fields of
    :class:`Objective`. Raises ValueError for unknown names, and for a condition on a stream that the task
    does not have.
    """
    written = [condition_of(text) for text in conditions]
    if task == "outpaint":
        if not any(condition.kind == "crop" for _, condition in written):
            raise ValueError(
                "task outpaint: say which part is known, such as conditions = ['crop=0,128,512,640']"
            )
        base = Objective(audio=None)
    elif task in TASKS:
        base = TASKS[task]
    else:
        raise ValueError(f"task {task!r} is unknown: use one of {', '.join(TASK_NAMES)}")
    streams = {"video": base.video, "audio": base.audio}
    for stream, condition in written:
        own = streams[stream]
        if own is None or (not own.generated and condition.kind != "reference"):
            raise ValueError(f"condition {condition.kind}: task {task} does not generate {stream}")
        # A condition that the task has already is replaced, so that its probability can be set.
        others = tuple(c for c in own.conditions if c.kind != condition.kind)
        streams[stream] = replace(own, conditions=(*others, condition))
    return replace(base, video=streams["video"], audio=streams["audio"], **changes)


def official_objective(strategy: Mapping[str, Any], **changes: Any) -> Objective:
    """Build the objective of a ``training_strategy`` in a configuration file of the official trainer.

    ``changes`` are fields of :class:`Objective`. Raises ValueError for an unknown strategy.
    """
    name = strategy.get("name")
    if name == "flexible":
        streams = {stream: _official_stream(strategy.get(stream)) for stream in ("video", "audio")}
        return Objective(video=streams["video"], audio=streams["audio"], official=True, **changes)
    if name not in ("text_to_video", "video_to_video"):
        raise ValueError(f"strategy {name!r} of the official trainer is unknown")
    chance = float(strategy.get("first_frame_conditioning_p", 0.1))
    conditions = (Condition(kind="first_frame", probability=chance),) if chance else ()
    with_audio = name == "text_to_video" and bool(strategy.get("with_audio", False))
    if name == "video_to_video":
        conditions = (*conditions, Condition(kind="reference"))
    return Objective(
        video=StreamObjective(conditions=conditions),
        audio=_GENERATED if with_audio else None,
        shared_sigma=True,
        official=True,
        legacy=True,
        **changes,
    )


def _official_stream(block: Mapping[str, Any] | None) -> StreamObjective | None:
    if block is None:
        return None
    return StreamObjective(
        generated=bool(block.get("is_generated", True)),
        conditions=tuple(official_condition(entry) for entry in block.get("conditions", ())),
    )
