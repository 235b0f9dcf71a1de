"""The training loop of all networks here: resumable from one file, with averaged weights, logs and curves.

Data and noise of a step come from a generator seeded with (seed, step, rank of the process), so the step
number is the whole random state. A run that was killed continues with the same result: bit for bit in float32
on a CPU.
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
    "Elapsed",
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
"""(model, generator, step) -> scalars by name: "loss" is minimised, the others are logged.

A step that computes the gradients itself returns a loss that does not require any.
"""

Schedule = Callable[[int], float]
"""Step -> factor on the learning rates of the optimizer."""

Evaluate = Callable[[nn.Module, int], Mapping[str, float]]
"""(model with averaged weights, step) -> figures by name, for the log."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How to run the training loop: precision, averaging, clipping, and seconds between saves and logs.

    ``dtype``, ``ema`` and ``clip`` change the result, the others do not.
    """

    dtype: torch.dtype = torch.float32
    """bfloat16 computes under autocast; weights and optimizer state stay float32."""
    ema: float = 0.999
    """Decay of the averaged weights; lower in the first steps."""
    clip: float | None = None
    """Largest norm of the gradient; None does not clip."""
    save_every_s: float = 120.0
    evaluates: bool = True
    """Whether ``evaluate`` is called at all."""
    evaluate_every_s: float = 300.0
    log_every_s: float = 60.0
    max_seconds: float = math.inf
    """Save and return after so many seconds; the next call resumes."""
    progress: bool = True
    """Whether to display a progress bar."""


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
    """Train ``model`` in place up to ``total_steps``; resumes from ``state_path`` if the file exists.

    ``step_fn`` computes the loss of a step, ``schedule`` the factor on the learning rates. ``evaluate``
    measures the model with its averaged weights; None logs only losses. ``seed`` determines the data;
    ``options`` of None are the defaults. At the end, or after ``options.max_seconds``, ``model`` has the
    current weights and ``state_path`` the whole state; read the averaged weights from it with
    ``averaged_weights``. A log (``.log``) and the curves (``.png``) are written
    next to it under the same name. If torch.distributed is initialised, each rank draws its own data,
    gradients are averaged, and rank 0 writes the files.

    Raises ValueError if the file belongs to another run, and FloatingPointError if the loss is not finite;
    the file then stays as it was last saved.
    """
    options = options or LoopOptions()
    path = Path(state_path)
    rank = torch.distributed.get_rank() if _distributed() else 0
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    # Only parameters are averaged; a buffer holds constants.
    averaged = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = TrainingState(model=model, optimizer=optimizer, averaged=averaged, seed=seed)
    if path.exists():
        state.load(path)
        logger.info("continuing %s at step %d of %d", path, state.step, total_steps)
    # Ranks may have started from different files or seeds.
    _broadcast([*model.parameters(), *averaged.values()])
    clocks = _Clocks(options)
    hidden = not options.progress or rank > 0
    bar = tqdm(total=total_steps, initial=state.step, disable=hidden, smoothing=0.02)
    with bar, tensor_cores(next(model.parameters()).device):
        while state.step < total_steps and not clocks.over:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                # Computed from the initial rate, because a factor on the current one would accumulate.
                group["lr"] = lr * schedule(state.step)
            scalars = _update(state, step_fn, rank, options)
            state.step += 1
            bar.update()
            ends = state.step == total_steps or clocks.over
            if clocks.due("log") or ends:
                values = _numbers(scalars, state.step, path)
                state.history.add(state.step, values)
                if evaluate is not None and options.evaluates and (clocks.due("evaluate") or ends):
                    # The averaged weights are the result of the run, so they are what is evaluated.
                    with swapped(model, averaged):
                        figures = dict(evaluate(model, state.step))
                    state.history.add(state.step, figures)
                    values |= figures
                if rank == 0:
                    write_line(path.with_suffix(".log"), state.step, clocks.seconds, values)
                    bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
            if rank == 0 and (clocks.due("save") or ends):
                # A state with a loss that is not finite must not replace the last good one.
                _numbers(scalars, state.step, path)
                state.save(path)
                plot(state.history, path.with_suffix(".png"))
    for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = lr
    return state.history


def _update(state: TrainingState, step_fn: StepFn, rank: int, options: LoopOptions) -> Mapping[str, Tensor]:
    """Do one training step in place: gradients, optimizer, averaged weights.

    ``rank`` is the number of this process. Returns the scalars that ``step_fn`` computed.
    """
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    # None and not zero, so that an optimizer skips parameters that took no part in the step.
    state.optimizer.zero_grad(set_to_none=True)
    with _autocast(options.dtype, parameters[0].device):
        scalars = step_fn(state.model, step_generator(state.seed, state.step, rank), state.step)
    if scalars["loss"].requires_grad:
        scalars["loss"].backward()
    # Before clipping, so that every rank clips the same gradient and weights stay equal.
    _average_gradients(parameters)
    if options.clip is not None:
        nn.utils.clip_grad_norm_(parameters, options.clip)
    state.optimizer.step()
    # The first weights are far from the last ones, so that the average forgets them faster.
    decay = min(options.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        current = dict(state.model.named_parameters())
        torch._foreach_lerp_(list(state.averaged.values()), [current[n] for n in state.averaged], 1 - decay)
    return scalars


class _Clocks:
    """Timers for logging, evaluating and saving, and the time limit of the run."""

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
        """Whether the interval of ``what``, "log", "evaluate" or "save", has passed; if so it restarts."""
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
            f"the loss is {values['loss']} at step {step}; {path} is as it was last saved: resume "
            "from it with a lower learning rate or with options.clip"
        )
    return values


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """A CPU generator whose numbers depend only on ``seed``, ``step`` and process number ``rank``."""
    # A generator for each step lets a resumed run draw the same data without replaying earlier steps.
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    # 63 bits, so that the seed is positive as a signed number too.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Elapsed:
    """The share of a run that is done: of ``total_steps`` or of ``seconds``, whichever share is larger.

    With a limit in seconds the learning rate decays in time on a machine whose speed is not known in advance.
    """

    def __init__(self, total_steps: int, seconds: float = math.inf) -> None:
        self.total_steps, self.seconds = total_steps, seconds
        self._began = time.monotonic()

    def share(self, step: int) -> float:
        """The share of the run done at ``step``, in [0, 1]; seconds count from when this object was made."""
        # Monotonic, because the wall clock may be set during a run.
        by_clock = (time.monotonic() - self._began) / self.seconds
        return min(1.0, max(step / self.total_steps, by_clock))


def warmup_stable_decay(elapsed: Elapsed | int, *, warmup: int = 40, decay: float = 0.3) -> Schedule:
    """Build a learning-rate schedule: a linear rise, a constant part, a linear fall to zero.

    The rise takes ``warmup`` steps, at most a tenth of the run; the fall takes the last share ``decay`` of
    the run. ``elapsed`` measures how much of the run is done, or is its number of steps. A run that has not
    begun to decay can be resumed with another length.
    """
    elapsed = Elapsed(elapsed) if isinstance(elapsed, int) else elapsed
    rise = min(warmup, max(1, elapsed.total_steps // 10))
    # At least one step, because the factor divides by it.
    fall = max(decay, 1 / elapsed.total_steps)

    def factor(step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / rise, (1 - elapsed.share(step)) / fall))

    return factor


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Inside the ``with`` block, compute float32 products in TF32 on CUDA, faster and less exact.

    cuDNN also measures which convolutions are fastest. For a ``device`` other than CUDA it does nothing.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    # These are settings of the whole process, so the caller's are restored.
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    cudnn.benchmark_limit = 4  # Measuring more algorithms per size takes longer than it saves.
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit = before


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the ``with`` block, ``model`` has the parameters ``weights``, by name; then its own again."""
    # Clones and not references: the weights are copied into the parameters themselves.
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
        # One transfer for all gradients: thousands of small ones would each cost its latency.
        together = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(together)
        together /= torch.distributed.get_world_size()
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
