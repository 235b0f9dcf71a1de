"""The training loop: resumable from one file, the same for every network here.

A step's data and noise come from a generator seeded with (seed, step), so the step number is all the random
state there is, and a run that was killed continues as if it had not been: bit for bit in float32 on a CPU.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .history import History, plot, write_line
from .state import TrainingState, averaged_weights, copy_weights

__all__ = [
    "Course",
    "Evaluate",
    "History",
    "LoopOptions",
    "Schedule",
    "StepFn",
    "averaged_weights",
    "step_generator",
    "swapped",
    "train",
    "warmup_stable_decay",
]

logger = logging.getLogger(__name__)

StepFn = Callable[[nn.Module, torch.Generator, int], Mapping[str, Tensor]]
"""(model, generator, step) -> scalars by name; "loss" is what is minimised, the rest is shown.

A step that has computed the gradients itself gives a loss that needs none.
"""

Schedule = Callable[[int], float]
"""Step -> factor of the optimizer's learning rates."""

Evaluate = Callable[[nn.Module, int], Mapping[str, float]]
"""(model with averaged weights, step) -> figures for the log."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How to run: precision, averaging and clipping alter what is learnt, the rest does not."""

    dtype: torch.dtype = torch.float32
    """bfloat16 computes under autocast; weights and moments stay float32."""
    ema: float = 0.999
    clip: float | None = None
    """Largest norm of the gradient."""
    save_every_s: float = 120.0
    evaluates: bool = True
    evaluate_every_s: float = 300.0
    log_every_s: float = 60.0
    max_seconds: float = math.inf
    """Stop, saved, after so long; call again to go on."""
    progress: bool = True


def train(
    step_fn: StepFn,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    state_path: str | Path,
    *,
    total_steps: int,
    seed: int,
    options: LoopOptions | None = None,
    evaluate: Evaluate | None = None,
) -> History:
    """Train ``model`` in place up to ``total_steps``, continuing from ``state_path`` where it exists.

    At the end, or when ``options.max_seconds`` are over, ``model`` holds the current weights and
    ``state_path`` everything (``averaged_weights`` reads the averaged ones). Beside it grow a log of the same
    name (``.log``) and the curves (``.png``, if matplotlib is installed). Where torch.distributed has been
    initialised each rank draws its own data, gradients are averaged, and rank 0 writes.

    Raises ValueError when the file belongs to another run, and FloatingPointError when the loss is no longer
    finite; nothing is saved then.
    """
    options = options or LoopOptions()
    path = Path(state_path)
    rank = torch.distributed.get_rank() if _distributed() else 0
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    averaged = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = TrainingState(model=model, optimizer=optimizer, averaged=averaged, seed=seed)
    if path.exists():
        state.load(path)
        logger.info("continuing %s at step %d of %d", path, state.step, total_steps)
    _broadcast([*model.parameters(), *averaged.values()])
    clocks = _Clocks(options)
    hidden = not options.progress or rank > 0
    bar = tqdm(total=total_steps, initial=state.step, disable=hidden, smoothing=0.02)
    with bar, tensor_cores(next(model.parameters()).device):
        while state.step < total_steps and not clocks.over:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr * schedule(state.step)
            scalars = _update(state, step_fn, rank, options)
            state.step += 1
            bar.update()
            ends = state.step == total_steps or clocks.over
            if clocks.due("log") or ends:
                values = _numbers(scalars, state.step, path)
                state.history.add(state.step, values)
                if evaluate is not None and options.evaluates and (clocks.due("evaluate") or ends):
                    with swapped(model, averaged):
                        figures = dict(evaluate(model, state.step))
                    state.history.add(state.step, figures)
                    values |= figures
                if rank == 0:
                    write_line(path.with_suffix(".log"), state.step, clocks.seconds, values)
                    bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
            if rank == 0 and (clocks.due("save") or ends):
                _numbers(scalars, state.step, path)
                state.save(path)
                plot(state.history, path.with_suffix(".png"))
    for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = lr
    return state.history


def _update(state: TrainingState, step_fn: StepFn, rank: int, options: LoopOptions) -> Mapping[str, Tensor]:
    """One step of model, optimizer and averaged weights."""
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    state.optimizer.zero_grad(set_to_none=True)
    with _autocast(options.dtype, parameters[0].device):
        scalars = step_fn(state.model, step_generator(state.seed, state.step, rank), state.step)
    if scalars["loss"].requires_grad:
        scalars["loss"].backward()
    _average_gradients(parameters)
    if options.clip is not None:
        nn.utils.clip_grad_norm_(parameters, options.clip)
    state.optimizer.step()
    decay = min(options.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        current = dict(state.model.named_parameters())
        torch._foreach_lerp_(list(state.averaged.values()), [current[n] for n in state.averaged], 1 - decay)
    return scalars


class _Clocks:
    """When something was last done, and whether it is time to do it again."""

    def __init__(self, options: LoopOptions) -> None:
        self.start = time.monotonic()
        self.last = {
            "log": (self.start, options.log_every_s),
            "evaluate": (self.start, options.evaluate_every_s),
            "save": (self.start, options.save_every_s),
        }
        self.max_seconds = options.max_seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def over(self) -> bool:
        return self.seconds > self.max_seconds

    def due(self, what: str) -> bool:
        """True when the interval has passed, and then starts it anew."""
        last, interval = self.last[what]
        now = time.monotonic()
        if now - last <= interval:
            return False
        self.last[what] = (now, interval)
        return True


def _numbers(scalars: Mapping[str, Tensor], step: int, path: Path) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in scalars.items()}
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"the loss is {values['loss']} at step {step}; {path} keeps what was last saved: continue "
            "from it with a lower learning rate or with options.clip"
        )
    return values


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """A generator that depends on these numbers only."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Course:
    """How much of a run is behind: by steps, or by the clock where that is further on.

    The speed of a machine is not known before, and what happens towards the end has to happen in time.
    """

    def __init__(self, total_steps: int, seconds: float = math.inf) -> None:
        self.total_steps, self.seconds = total_steps, seconds
        self._began = time.monotonic()

    def share(self, step: int) -> float:
        """In [0, 1], of the steps from 0 to ``total_steps`` and of the seconds since this was made."""
        by_clock = (time.monotonic() - self._began) / self.seconds
        return min(1.0, max(step / self.total_steps, by_clock))


def warmup_stable_decay(course: Course | int, *, warmup: int = 40, decay: float = 0.3) -> Schedule:
    """Linear rise over ``warmup`` steps or a tenth, a plateau, a linear fall to zero over the last ``decay``.

    ``course`` may be a number of steps. A run on the plateau can be made longer, or shorter, by another one
    when it is resumed.
    """
    course = Course(course) if isinstance(course, int) else course
    rise = min(warmup, max(1, course.total_steps // 10))
    fall = max(decay, 1 / course.total_steps)

    def factor(step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / rise, (1 - course.share(step)) / fall))

    return factor


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """On a CUDA device: products of float32 in TF32, and for convolutions the kernel measured fastest."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    cudnn.benchmark_limit = 4  # of each convolution at each size: more of them cost more than they give back
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit = before


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let ``model`` have ``weights`` for a while."""
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        copy_weights(model, weights)
        yield
    finally:
        copy_weights(model, own)


def _autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _broadcast(tensors: list[Tensor]) -> None:
    if _distributed():
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, 0)


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    if _distributed():
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(together)
        together /= torch.distributed.get_world_size()
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
