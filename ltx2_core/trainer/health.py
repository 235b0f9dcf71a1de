"""Watches a run: losses by noise level, and alarms for lost voices and for learning clips by heart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..storage.writing import write_tensors
from ..training.history import History
from ..training.objective import Losses, Step
from .samples import Batch

BANDS = (0.25, 0.5, 0.75, 1.0)
"""Upper ends of the bands of noise levels whose losses are logged apart."""

LOGGED = (
    "loss",
    *(
        f"{stream}_{what}"
        for stream in ("video", "audio")
        for what in ("loss", "sigma", *(f"loss_{high - 0.25:g}_{high:g}" for high in BANDS))
    ),
)
"""Names of all figures of a forward pass."""

DRIFT = 0.1
"""An audio loss of held-out clips that is higher than the base's by this share is an alarm."""
OVERFIT, PATIENCE = 0.03, 3
"""So many validations in a row that are worse than the best one by this share are an alarm."""


def logged(found: Losses, step: Step) -> dict[str, float]:
    """What one forward pass adds to the log: losses and noise levels, and the losses of each band."""
    values = {"loss": float(found.total.detach().mean())}
    for name, loss, stream in (("video", found.video, step.video), ("audio", found.audio, step.audio)):
        if loss is None or stream is None:
            continue
        own, sigmas = loss.detach().float().cpu(), stream.sigma.float().cpu()
        values[f"{name}_loss"] = float(own.mean())
        values[f"{name}_sigma"] = float(sigmas.mean())
        low = 0.0
        for high in BANDS:
            inside = (sigmas >= low) & ((sigmas < high) | (high == BANDS[-1]))
            if inside.any():
                values[f"{name}_loss_{low:g}_{high:g}"] = float(own[inside].mean())
            low = high
    return values


def alarms(history: History, *, held_out: bool) -> list[str]:
    """Sentences about what goes wrong, from the curves of validation losses; none while all is well.

    The first value of each curve is that of the base, before training. ``held_out`` says that the clips are
    not trained on: without it neither alarm means anything.
    """
    if not held_out:
        return []
    found = []
    audio = [value for _, value in history.curves.get("validation_audio_loss", [])]
    if len(audio) > 1 and audio[-1] > audio[0] * (1 + DRIFT):
        found.append(
            f"audio drift: the audio loss of held-out clips is {audio[-1]:.4g}, that of the base was "
            f"{audio[0]:.4g}. Voices are being lost: stop at an earlier save, lower audio_learning_rate, or "
            "train targets = ['video'] alone"
        )
    losses = [value for _, value in history.curves.get("validation_loss", [])]
    last, best = losses[-PATIENCE:], min(losses, default=0.0)
    if len(losses) > PATIENCE and all(value > best * (1 + OVERFIT) for value in last):
        step = next(step for step, value in history.curves["validation_loss"] if value == best)
        found.append(
            f"overfitting: the loss of held-out clips was lowest ({best:.4g}) after {step} steps and is "
            f"{losses[-1]:.4g}. The best weights are saved; more clips, a lower rank or learning_rate help"
        )
    return found


def save_bad_batch(path: Path, batch: Batch, step: Step) -> None:
    """Write what made a loss that is not finite: latents, texts, noise levels, inputs of both streams."""
    clips = batch.clips
    tensors: dict[str, Tensor | None] = {
        "video": clips.video,
        "audio": clips.audio,
        "text.video": clips.context.video,
        "text.audio": clips.context.audio,
    }
    for name, stream in (("video", step.video), ("audio", step.audio)):
        if stream is not None:
            tensors[f"{name}.sigma"] = stream.sigma
            tensors[f"{name}.tokens"] = stream.modality.tokens
            tensors[f"{name}.target"] = stream.target
    present = {name: t.detach().contiguous() for name, t in tensors.items() if t is not None}
    metadata: Mapping[str, str] = {"clips": "\n".join(batch.names)}
    write_tensors(path, present, metadata)
