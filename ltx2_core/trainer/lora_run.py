"""Trains a LoRA from an encoded dataset; a run that was stopped resumes bit for bit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..loading import Component, open_lora
from ..storage.identity import identity
from ..storage.private import locked
from ..training.loop import step_generator
from ..training.lora import PREFIX, LoraAdapters, save_lora
from ..training.objective import GeneratorDraws, Losses, Step, losses, prepare, velocities
from ..training.schedules import schedule_of
from ..training.state import TrainingState
from ..training.updates import Updates, adamw
from ..transformer import Transformer
from .open_run import Opened, base_digest, metadata
from .samples import Batch

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called after each optimizer step with (step, all steps, what is logged)."""

OnSave = Callable[[int, Path | None], None]
"""Called with (step, LoRA file) for previews; before the first step the file is None."""

VALIDATION_CLIPS = 4
_VALIDATION_SEED = 20240

_DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


def train_lora(
    opened: Opened,
    *,
    on_step: OnStep | None = None,
    on_save: OnSave | None = None,
    stop_at: int | None = None,
) -> Path:
    """Train, save and log; returns the path of the final LoRA, or of the last one if it was stopped.

    Resumes from the state in the folder of the run. ``on_save`` makes previews. ``stop_at`` saves and stops
    after so many steps, as if the run had been interrupted there. Raises FloatingPointError if the loss is
    not finite, and names the clips, or if the gradient is not; ValueError if another run writes to the
    folder.
    """
    # The writes of two runs would mix in the log, and each would replace the state of the other.
    with locked(opened.files.folder):
        return _train(opened, on_step, on_save, stop_at)


def _train(opened: Opened, on_step: OnStep | None, on_save: OnSave | None, stop_at: int | None) -> Path:
    settings, files, networks = opened.settings, opened.files, opened.networks
    files.begin({**settings.lasting(), **_digests(opened)}, unknown=_unknown(opened))
    if on_save is not None and not files.state.is_file():
        on_save(0, None)
    with networks.use(Component.TRANSFORMER) as network:
        trainer = _Trainer(opened, network)
        if files.state.is_file():
            trainer.state.load(files.state)
            trainer.updates.resume(trainer.state.step)
        files.cut_log(trainer.state.step)
        last = min(settings.steps, stop_at or settings.steps)
        saved = files.lora(trainer.state.step)
        while trainer.state.step < last:
            values = trainer.step()
            step = trainer.state.step
            ends = step == last
            if settings.validation_every and (step % settings.validation_every == 0 or ends):
                values["validation_loss"] = trainer.validation_loss()
            files.log({"step": step, **values})
            if on_step is not None:
                on_step(step, settings.steps, values)
            previews = on_save is not None and (step % settings.preview_every == 0 or ends)
            if step % settings.save_every == 0 or ends or previews:
                # The state comes last: a run that is killed between the two writes the LoRA again.
                saved = files.lora(step)
                trainer.save(saved)
                trainer.state.save(files.state)
                files.forget_old(settings.keep_last)
            if previews and on_save is not None:
                trainer.aside(on_save, step, saved)
        if trainer.state.step == settings.steps:
            trainer.save(files.final)
            return files.final
    return saved


def _digests(opened: Opened) -> dict[str, str]:
    """What a run is made of, which a resumed run must share: digests of the dataset and of the files."""
    found = {
        "dataset_digest": opened.samples.index.fingerprint,
        "base_model_digest": base_digest(opened.networks),
    }
    if opened.settings.init_lora and not _unknown(opened):
        found["init_lora_digest"] = identity([Path(opened.settings.init_lora)])
    return found


def _unknown(opened: Opened) -> tuple[str, ...]:
    """The digests that cannot be computed any more, and that a resumed run does not need."""
    init = opened.settings.init_lora
    gone = init and opened.files.state.is_file() and not Path(init).is_file()
    return ("init_lora_digest",) if gone else ()


class _Trainer:
    """The network, adapters and optimizer of a run."""

    def __init__(self, opened: Opened, network: Transformer) -> None:
        self.opened, self.network = opened, network
        settings = opened.settings
        self.device = next(network.parameters()).device
        exact = "|".join(rf"^{re.escape(name)}$" for name in opened.layers)
        self.adapters = LoraAdapters(
            network, rank=settings.rank, alpha=settings.lora_alpha, targets=exact, seed=settings.seed
        )
        if settings.init_lora and not opened.files.state.is_file():
            _start_from(self.adapters, Path(settings.init_lora))
        self.updates = Updates(
            optimizer=adamw(
                self.adapters.parameters(),
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
            ),
            schedule=schedule_of(
                settings.schedule,
                settings.steps,
                learning_rate=settings.learning_rate,
                warmup=settings.warmup,
            ),
            accumulation=settings.gradient_accumulation,
            clip=settings.max_grad_norm,
        )
        self.state = TrainingState(
            model=self.adapters, optimizer=self.updates.optimizer, averaged={}, seed=settings.seed
        )
        mixed = settings.mixed_precision
        self.mixed = mixed == "bf16" or (mixed == "auto" and self.device.type == "cuda")

    def step(self) -> dict[str, float]:
        """Do one optimizer step; returns what is logged: means over its forward passes."""
        settings, sums = self.opened.settings, dict[str, list[float]]()
        rate = self.updates.learning_rate
        first = self.state.step * settings.gradient_accumulation
        norm: float | None = None
        for number in range(first, first + settings.gradient_accumulation):
            # All random numbers follow from the seed and this number, so a resumed run draws the same.
            generator = step_generator(settings.seed, number)
            batch = self.opened.samples.batch(number, generator)
            found, prepared = self._losses(batch, generator)
            loss = found.total.mean()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at step {self.state.step + 1}, with {', '.join(batch.names)}: the "
                    "run is as it was last saved; lower learning_rate, or look at these clips"
                )
            norm = self.updates.add(loss)
            for name, value in _logged(found, prepared).items():
                sums.setdefault(name, []).append(value)
        self.state.step = self.updates.step
        values = {name: sum(numbers) / len(numbers) for name, numbers in sums.items()}
        return {**values, "learning_rate": rate, "grad_norm": norm or 0.0}

    @torch.no_grad()
    def validation_loss(self) -> float:
        """The mean loss of the validation clips, with the same noise every time."""
        total = []
        for number, batch in enumerate(self.opened.held_out.first(VALIDATION_CLIPS)):
            found, _ = self._losses(batch, step_generator(_VALIDATION_SEED, number))
            total.append(float(found.total.mean()))
        return sum(total) / len(total)

    def save(self, path: Path) -> None:
        """Write the LoRA of this step in the official layout, with metadata."""
        save_lora(
            path,
            self.adapters.tensors(),
            dtype=_DTYPES[self.opened.settings.save_precision],
            metadata=metadata(self.opened, self.state.step, len(self.adapters.names)),
        )

    def aside(self, on_save: OnSave, step: int, path: Path) -> None:
        """Make previews, while the network that is trained waits in system memory."""
        if self.device.type == "cuda":
            self.network.to("cpu")
            torch.cuda.empty_cache()
        try:
            on_save(step, path)
        finally:
            self.network.to(self.device)

    def _losses(self, batch: Batch, generator: torch.Generator) -> tuple[Losses, Step]:
        step = prepare(batch.objective, batch.clips, GeneratorDraws(generator, self.device))
        checkpointing = self.opened.settings.gradient_checkpointing and torch.is_grad_enabled()
        with torch.autocast(self.device.type, torch.bfloat16) if self.mixed else nullcontext():
            predicted = velocities(self.network, step, checkpointing=checkpointing)
        return losses(batch.objective, step, predicted), step


def _logged(found: Losses, step: Step) -> dict[str, float]:
    values = {"loss": float(found.total.detach().mean())}
    for name, loss, stream in (("video", found.video, step.video), ("audio", found.audio, step.audio)):
        if loss is not None and stream is not None:
            values[f"{name}_loss"] = float(loss.detach().mean())
            values[f"{name}_sigma"] = float(stream.sigma.mean())
    return values


def _start_from(adapters: LoraAdapters, path: Path) -> None:
    """Load the matrices of a LoRA file in the official layout; raises ValueError if layers or rank differ."""
    tensors = _tensors(path)
    with torch.no_grad():
        for name, pair in zip(adapters.names, adapters.pairs, strict=True):
            a, b = (tensors.get(f"{PREFIX}{name}.lora_{part}.weight") for part in ("A", "B"))
            own_a, own_b = pair.get_parameter("a"), pair.get_parameter("b")
            if a is None or b is None or a.shape != own_a.shape or b.shape != own_b.shape:
                raise ValueError(f"init_lora: {path} has no layer {name} of rank {own_a.shape[0]}")
            own_a.copy_(a)
            # The scale was folded into B when the file was saved.
            own_b.copy_(b.to(own_b.dtype) / adapters.scale)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The matrices of a LoRA file; raises ValueError if it is none."""
    open_lora(path)
    return load_file(path)
