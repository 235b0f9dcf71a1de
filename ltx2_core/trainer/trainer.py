"""Networks, optimizer and averages of a run, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..loading.lora_report import updated_stream
from ..training.block_memory import BlockRunner, place, streamed_numbers
from ..training.loop import step_generator, swapped
from ..training.objective import GeneratorDraws, Losses, Step, losses, prepare, velocities
from ..training.optimizer_choice import Group, optimizer_of
from ..training.optimizer_names import OptimizerOptions
from ..training.processes import Processes
from ..training.rounding import Copies
from ..training.schedules import schedule_of
from ..training.state import TrainingState
from ..training.updates import Updates
from ..transformer import Transformer
from .health import LOGGED, logged, save_bad_batch
from .open_run import Opened
from .samples import Batch
from .settings import FullSettings, LoraSettings, TrainSettings
from .trainees import Networks, Trainee, by_stream

VALIDATION_CLIPS = 4
_VALIDATION_SEED = 20240


def swapped_blocks(settings: TrainSettings, network: Transformer) -> tuple[int, ...]:
    """Numbers of the blocks whose weights lie in system memory; raises ValueError for more than there are."""
    count = settings.blocks_to_swap if isinstance(settings, LoraSettings) else 0
    blocks = len(network.transformer_blocks)
    if count > blocks:
        raise ValueError(f"blocks_to_swap={count}: the transformer has {blocks} blocks")
    return streamed_numbers(blocks, count)


class Trainer:
    """The network, what is trained, and the optimizer of a run."""

    def __init__(self, opened: Opened, networks: Networks, trainee: Trainee, processes: Processes) -> None:
        self.opened, self.trainee, self.processes = opened, trainee, processes
        self.network, self.text = networks.transformer, networks.text
        settings = opened.settings
        self.device = opened.networks.device
        parts = list(trainee.named())
        parameters = {name: parameter for name, _, parameter in parts}
        weights = settings.weights if isinstance(settings, FullSettings) else "float32"
        self.copies: Copies | None = None
        if settings.offload_optimizer or weights == "bf16":
            place = torch.device("cpu") if settings.offload_optimizer else self.device
            self.copies = Copies(parameters, place)
        audio = [name for name, layer, _ in parts if updated_stream(layer) == "audio"]
        groups = [list(parameters), []]
        if settings.audio_learning_rate:
            groups = [[name for name in parameters if name not in {*audio}], audio]
        held = parameters if self.copies is None else self.copies.copies
        rates = (settings.learning_rate, settings.audio_learning_rate)
        self.updates = Updates(
            optimizer=optimizer_of(
                settings.optimizer,
                [Group([held[n] for n in names], rate) for names, rate in zip(groups, rates, strict=True)],
                OptimizerOptions(betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay),
                rounded=weights == "bf16_rounded",
            ),
            schedule=schedule_of(
                settings.schedule,
                settings.steps,
                learning_rate=settings.learning_rate,
                warmup=settings.warmup,
            ),
            accumulation=settings.gradient_accumulation,
            clip=settings.max_grad_norm,
            processes=processes,
            copies=self.copies,
            streams=by_stream([(n, layer, held[n]) for n, layer, _ in parts]),
        )
        averaged = {n: p.detach().clone() for n, p in parameters.items()} if settings.ema else {}
        self.state = TrainingState(
            model=trainee.module,
            optimizer=self.updates.optimizer,
            averaged=averaged,
            seed=settings.seed,
            copies={} if self.copies is None else self.copies.copies,
        )
        self._swapped = swapped_blocks(settings, self.network)
        self._run_block: BlockRunner | None = None
        if settings.activation_offload or self._swapped:
            offload = settings.activation_offload
            self._run_block = BlockRunner(self.device, offload=offload, streamed=self._swapped)
        mixed = settings.mixed_precision
        self.mixed = mixed == "bf16" or (mixed == "auto" and self.device.type == "cuda")
        self.mixed = self.mixed or weights in ("bf16", "bf16_rounded")

    def step(self) -> dict[str, float]:
        """Do one optimizer step; returns what is logged: means over the forward passes of all processes."""
        settings, sums = self.opened.settings, dict[str, list[float]]()
        rate, size = self.updates.learning_rate, self.processes.size
        first = self.state.step * settings.gradient_accumulation * size
        norm: float | None = None
        for number in range(first, first + settings.gradient_accumulation * size):
            # The passes of a step are dealt out, so that any number of processes does the same step.
            if number % size != self.processes.rank:
                continue
            # All random numbers follow from the seed and this number, so a resumed run draws the same.
            generator = step_generator(settings.seed, number)
            batch = self.opened.samples.batch(number, generator)
            self.trainee.begin_pass(number)
            found, prepared = self._losses(batch, generator)
            loss = found.total.mean()
            if not math.isfinite(float(loss.detach())):
                self._stop(batch, prepared, float(loss.detach()))
            norm = self.updates.add(loss)
            for name, value in logged(found, prepared).items():
                sums.setdefault(name, []).append(value)
        self.state.step = self.updates.step
        self._average()
        norms = {f"grad_norm_{stream}": value for stream, value in self.updates.norms.items()}
        return {**self._means(sums), "learning_rate": rate, "grad_norm": norm or 0.0, **norms}

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """The mean losses of the validation clips, with the same noise every time: both, video, audio."""
        sums = dict[str, list[float]]()
        with self.averages():
            for number, batch in enumerate(self.opened.held_out.first(VALIDATION_CLIPS)):
                found, _ = self._losses(batch, step_generator(_VALIDATION_SEED, number))
                for name, loss in (("", found.total), ("video_", found.video), ("audio_", found.audio)):
                    if loss is not None:
                        sums.setdefault(f"validation_{name}loss", []).append(float(loss.mean()))
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def save(self, path: Path) -> None:
        """Write the weights of this step, the averaged ones if there are any."""
        with self.averages():
            self.trainee.save(path, self.state.step, write=self.processes.first)

    @contextmanager
    def averages(self) -> Iterator[None]:
        """A context in which the trained module has the averaged weights, if the run has any."""
        if not self.state.averaged:
            yield
            return
        own = {n: p for n, p in self.trainee.module.named_parameters() if n not in self.state.averaged}
        with swapped(self.trainee.module, {**own, **self.state.averaged}):
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A context in which the network that is trained waits in system memory, for previews."""
        if self.device.type != "cuda":
            yield
            return
        self.network.to("cpu")
        if self.text is not None:
            self.text.to("cpu")
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            place(self.network, self.device, self._swapped)
            if self.text is not None:
                self.text.to(self.device)

    def _stop(self, batch: Batch, step: Step, value: float) -> NoReturn:
        path = self.opened.files.folder / f"bad_batch_step_{self.state.step + 1:06d}.safetensors"
        save_bad_batch(path, batch, step)
        raise FloatingPointError(
            f"the loss is {value} at step {self.state.step + 1}, with {', '.join(batch.names)}: the "
            f"run is as it was last saved and the batch is in {path.name}; lower learning_rate, or look at "
            "these clips"
        )

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averages towards the weights of this step; faster in the first steps."""
        if not self.state.averaged:
            return
        decay = min(self.opened.settings.ema, (1 + self.state.step) / (10 + self.state.step))
        current = dict(self.trainee.module.named_parameters())
        averaged = self.state.averaged
        torch._foreach_lerp_(list(averaged.values()), [current[n] for n in averaged], 1 - decay)

    def _means(self, sums: dict[str, list[float]]) -> dict[str, float]:
        """Means by name, in the order of the names, over this and all other processes."""
        if self.processes.size == 1:
            return {name: sum(values) / len(values) for name, values in sums.items()}
        own = [sums.get(name, []) for name in LOGGED]
        numbers = [number for values in own for number in (sum(values), float(len(values)))]
        totals = iter(self.processes.total(*numbers))
        pairs = ((name, next(totals), next(totals)) for name in LOGGED)
        return {name: total / count for name, total, count in pairs if count}

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.mixed else nullcontext()

    def _losses(self, batch: Batch, generator: torch.Generator) -> tuple[Losses, Step]:
        clips = batch.clips
        if self.text is not None:
            with self._autocast():
                clips = replace(clips, context=self.text(batch.texts))
        step = prepare(batch.objective, clips, GeneratorDraws(generator, self.device))
        checkpointing = self.opened.settings.gradient_checkpointing and torch.is_grad_enabled()
        with self._autocast():
            predicted = velocities(
                self.network,
                step,
                checkpointing=checkpointing,
                # Swapped blocks are copied in validation too.
                run_block=self._run_block if checkpointing or self._swapped else None,
            )
        return losses(batch.objective, step, predicted), step
