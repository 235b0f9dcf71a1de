"""Trains from an encoded dataset; a run that was stopped resumes bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..loading import Component
from ..storage.identity import identity
from ..storage.private import locked
from ..training.block_memory import place
from ..training.history import plot
from ..training.optimizer_choice import has_fused_8bit
from ..training.processes import Processes, joined_processes
from .health import alarms
from .loggers import Logger, loggers_of
from .open_run import Opened, base_digest
from .preset_loras import preset_loras, split_strength
from .settings import FullSettings, LoraSettings
from .texts import text_networks
from .trainees import Networks, Trainee
from .trainer import Trainer, swapped_blocks

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called after each optimizer step with (step, all steps, what is logged)."""

OnSave = Callable[[int, Path | None], None]
"""Called with (step, file of weights) for previews; before the first step the file is None."""

OnAlarm = Callable[[str], None]
"""Called with a sentence about what goes wrong."""

Stop = Callable[[], bool]
"""Called after each step; if it returns True, the run is saved and ends, and may be resumed later."""

MakeTrainee = Callable[[Opened, Networks, Processes], Trainee]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who is told of a run: of each step, of weights for previews, and of what goes wrong; who stops it."""

    on_step: OnStep | None = None
    on_save: OnSave | None = None
    on_alarm: OnAlarm | None = None
    stop: Stop | None = None


def run_training(
    opened: Opened, make: MakeTrainee, watch: Watch | None = None, *, stop_at: int | None = None
) -> Path:
    """Train, save and log; returns the path of the final weights, or of the last ones if it was stopped.

    Resumes from the state in the folder of the run. If torchrun started several processes, they share the
    forward passes of each step, and the first one writes. ``stop_at`` saves and stops after so many steps, as
    if the run had been interrupted there. Raises FloatingPointError if the loss is not finite, and names the
    clips, or if the gradient is not; ValueError if another run writes to the folder.
    """
    with joined_processes(opened.networks.device) as processes:
        told = watch if watch is not None and processes.first else Watch()
        # The writes of two runs would mix in the log, and each would replace the state of the other.
        lock = locked(opened.files.folder) if processes.first else nullcontext()
        with lock:
            return _Run(opened, told, processes).train(make, stop_at)


class _Run:
    """One call that trains: what is saved, logged and shown when."""

    def __init__(self, opened: Opened, watch: Watch, processes: Processes) -> None:
        self.opened, self.watch, self.processes = opened, watch, processes
        self.settings, self.files = opened.settings, opened.files
        self.previews = bool(opened.settings.preview_prompts) or watch.on_save is not None
        self.loggers: list[Logger] = []
        self._saved_at = time.monotonic()

    def train(self, make: MakeTrainee, stop_at: int | None) -> Path:
        settings, files = self.settings, self.files
        if self.processes.first:
            lasting = _lasting(self.opened, self.processes)
            files.begin(lasting, settings.lasting_defaults(), unknown=_unknown(self.opened))
        self.processes.wait()
        if self.watch.on_save is not None and not files.state.is_file():
            self.watch.on_save(0, None)
        base = self.opened.networks.file(Component.TRANSFORMER)
        loras = preset_loras(settings, base)
        swaps = isinstance(settings, LoraSettings) and settings.blocks_to_swap > 0
        device = torch.device("cpu") if swaps else None
        networks = self.opened.networks
        stage = self.opened.samples.index.text
        with (
            networks.use(Component.TRANSFORMER, loras, device=device, dtype=_dtype(self.opened)) as network,
            text_networks(networks, stage, loras) as text,
        ):
            if swaps:
                place(network, networks.device, swapped_blocks(settings, network))
            both = Networks(network, text)
            trainee = make(self.opened, both, self.processes)
            self.trainer = Trainer(self.opened, both, trainee, self.processes)
            self._resume()
            self._show_again()
            if self.processes.first:
                self.loggers = loggers_of(
                    settings.log, files.folder, settings.lasting(), step=self.trainer.state.step
                )
            try:
                saved = self._steps(min(settings.steps, stop_at or settings.steps))
            finally:
                # What they hold back would be lost with a run that fails.
                for logger in self.loggers:
                    logger.close()
        return saved

    def _steps(self, last: int) -> Path:
        """Do all steps up to ``last``, or until the run is told to stop; returns the file saved last."""
        trainer, files = self.trainer, self.files
        saved = files.weights(trainer.state.step)
        while trainer.state.step < last:
            new = self._step(last)
            saved = new or saved
            if self._is_stopped():
                saved = new or self._save(trainer.state.step)
                break
        if trainer.state.step == self.settings.steps:
            trainer.save(files.final)
            saved = files.final
        self.processes.wait()
        return saved

    def _resume(self) -> None:
        trainer, files = self.trainer, self.files
        if files.state.is_file():
            trainer.state.load(files.state)
            trainer.updates.resume(trainer.state.step)
        if self.processes.first:
            files.cut_log(trainer.state.step)
        if self.settings.validation_every and not trainer.state.step:
            # The loss of the base, against which the alarms compare.
            trainer.state.history.add(0, trainer.validation_losses())

    def _show_again(self) -> None:
        """Make the previews of the last save, if the run was killed while they were made."""
        step, files, show = self.trainer.state.step, self.files, self.watch.on_save
        shown = step and (step % self.settings.preview_every == 0 or step == self.settings.steps)
        count = len(self.settings.preview_prompts)
        wanted = [files.preview(step, number) for number in range(1, count + 1)]
        if step and files.preview(0, 1).is_file():
            wanted.append(files.comparison(step))
        lacking = not all(file.is_file() for file in wanted)
        if shown and lacking and show is not None and files.weights(step).is_file():
            with self.trainer.aside():
                show(step, files.weights(step))
        self.processes.wait()

    def _step(self, last: int) -> Path | None:
        """One optimizer step, with what is logged and saved after it; returns the file if one was saved."""
        settings, trainer = self.settings, self.trainer
        values = trainer.step()
        step = trainer.state.step
        ends = step == last
        found: list[str] = []
        if settings.validation_every and (step % settings.validation_every == 0 or ends):
            found = self._validate(values)
        self._report(step, values, found)
        shown = self.previews and (step % settings.preview_every == 0 or ends)
        late = self.processes.total(float(self._is_late()))[0] > 0
        if not (step % settings.save_every == 0 or ends or shown or late):
            return None
        saved = self._save(step)
        if shown and self.watch.on_save is not None:
            with trainer.aside():
                self.watch.on_save(step, saved)
        self.processes.wait()
        return saved

    def _save(self, step: int) -> Path:
        """Write the weights and the state of this step; returns the file of weights."""
        trainer, files = self.trainer, self.files
        # The state comes last: a run that is killed between the two writes the weights again.
        saved = files.weights(step)
        trainer.save(saved)
        trainer.state.save(files.state, write=self.processes.first)
        if self.processes.first:
            files.forget_old(self.settings.keep_last)
            plot(trainer.state.history, files.curves)
        self._saved_at = time.monotonic()
        return saved

    def _validate(self, values: dict[str, float]) -> list[str]:
        """Add validation losses to ``values``; saves the weights if they are the best, returns alarms."""
        trainer, history = self.trainer, self.trainer.state.history
        own = trainer.validation_losses()
        values |= own
        history.add(trainer.state.step, own)
        held_out = bool(self.settings.validation_dataset)
        losses = [value for _, value in history.curves["validation_loss"][1:]]
        if held_out and losses[-1] == min(losses):
            trainer.save(self.files.best)
        return alarms(history, held_out=held_out)

    def _report(self, step: int, values: dict[str, float], found: list[str]) -> None:
        if self.processes.first:
            self.files.log({"step": step, **values, **({"alarms": found} if found else {})})
            for logger in self.loggers:
                logger.log(step, values)
            losses = {n: v for n, v in values.items() if n in ("loss", "video_loss", "audio_loss")}
            self.trainer.state.history.add(step, losses)
        if self.watch.on_step is not None:
            self.watch.on_step(step, self.settings.steps, values)
        for alarm in found if self.watch.on_alarm is not None else ():
            assert self.watch.on_alarm is not None
            self.watch.on_alarm(alarm)

    def _is_stopped(self) -> bool:
        """Whether one process was told to stop; all must agree, as they share every step."""
        own = self.watch.stop is not None and self.watch.stop()
        return self.processes.total(float(own))[0] > 0

    def _is_late(self) -> bool:
        limit = self.settings.save_minutes * 60
        return bool(limit) and time.monotonic() - self._saved_at >= limit


def _dtype(opened: Opened) -> torch.dtype | None:
    """The number format of the transformer in training; None is that of the device."""
    if not isinstance(opened.settings, FullSettings):
        # Without autocast weights in bfloat16 could not be multiplied by tokens in float32.
        return torch.float32 if opened.settings.mixed_precision == "no" else None
    return torch.float32 if opened.settings.weights == "float32" else torch.bfloat16


def _lasting(opened: Opened, processes: Processes) -> dict[str, Any]:
    """What a run is made of, which a resumed run must share: settings, digests of dataset and files."""
    found: dict[str, Any] = {
        **opened.settings.lasting(),
        "dataset_digest": opened.samples.index.fingerprint,
        "base_model_digest": base_digest(opened.networks),
    }
    # The number of processes may change, if those forward passes are dealt out otherwise.
    found["gradient_accumulation"] = opened.settings.gradient_accumulation * processes.size
    settings = opened.settings
    if settings.optimizer == "adamw8bit" and not has_fused_8bit():
        # The state of bitsandbytes is another one.
        found["adamw8bit_of"] = "this package"
    if not isinstance(settings, LoraSettings):
        return found
    if settings.init_lora and not _unknown(opened):
        found["init_lora_digest"] = identity([Path(settings.init_lora)])
    for number, text in enumerate(settings.preset_loras):
        path, strength = split_strength(text)
        found[f"preset_lora_digest_{number}"] = f"{identity([path])} x {strength:g}"
    return found


def _unknown(opened: Opened) -> tuple[str, ...]:
    """The digests that cannot be computed any more, and that a resumed run does not need."""
    settings = opened.settings
    init = settings.init_lora if isinstance(settings, LoraSettings) else ""
    gone = init and opened.files.state.is_file() and not Path(init).is_file()
    return ("init_lora_digest",) if gone else ()
