"""The peak of a LoRA step as ``ltx2 plan --train`` predicts it, against a trace at released widths.

    python benchmarks/training_memory.py

The step runs on the meta device with 2 and with 4 blocks, and the peak grows evenly with each block, so that
that of all 48 follows. As on a GPU: autocast to bfloat16, attention and norms as fused kernels, a timestep
for each token, blocks that are computed again in the backward pass. Weights and the states of the optimizer
are sums of bytes in both. The exit code is 1 if a prediction is more than 10 % off.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ltx2_core.memory import PRESETS, Trace, released_size
from ltx2_core.shapes import ClipPlan, plan_clip
from ltx2_core.training.adapters import Pair
from ltx2_core.training.lora import LoraAdapters
from ltx2_core.training.memory_plan import TrainingChoice, choose_training
from ltx2_core.training.objective import Clips, losses, prepare, velocities
from ltx2_core.training.objective.objective import TASKS
from ltx2_core.training.targets import layer_pattern
from ltx2_core.transformer import Transformer, model
from ltx2_core.transformer.timesteps import Groups, group_timesteps
from ltx2_core.types import TextContext

LIMIT = 0.1
FEW, SOME = 2, 4
"""Numbers of blocks that are traced."""


def main() -> int:
    lines = ["| clip, base | settings | predicted | traced | off |", "|---|---|---|---|---|"]
    met = True
    for frames in (49, 121):
        clip = plan_clip(768, 512, frames=frames, fps=24.0)
        for stored, budget in (("bf16", "80 GB"), ("fp8", "32 GB"), ("fp8", "24 GB"), ("fp8", "12 GB")):
            size = released_size("2.3", stored)
            quantised = stored != "bf16"
            choice, memory, _ = choose_training(PRESETS[budget], size, clip, quantised=quantised)
            own = memory.weights + memory.adapters + _traced(clip, choice)
            off = (memory.weights + memory.adapters + memory.activations) / own - 1
            met = met and abs(off) <= LIMIT
            lines.append(
                f"| {frames} frames, {stored} | {budget}: rank {choice.rank}, {choice.blocks_to_swap} swapped"
                f"{', offload' if choice.offload else ''} | {(own * (1 + off)) / 1e9:.1f} GB | "
                f"{own / 1e9:.1f} GB | {off:+.0%} |"
            )
    print("\n".join(lines))
    return 0 if met else 1


def _traced(clip: ClipPlan, choice: TrainingChoice) -> int:
    """Bytes of the activations at the peak of a step of the whole transformer."""
    layers = released_size("2.3").transformer.num_layers
    few, some = (_peak(count, clip, choice) for count in (FEW, SOME))
    return few + (some - few) * (layers - FEW) // (SOME - FEW)


def _peak(blocks: int, clip: ClipPlan, choice: TrainingChoice) -> int:
    config = replace(released_size("2.3").transformer, num_layers=blocks)
    network = Transformer(config, device="meta").to(torch.bfloat16)
    adapters = LoraAdapters(network, rank=choice.rank, targets=layer_pattern(("attention",)), seed=0)
    for parameter in adapters.parameters():
        # Those of the pass before, as with gradient_accumulation; their bytes are among those of the LoRA.
        parameter.grad = torch.empty_like(parameter)
    empty = partial(torch.empty, device="meta", dtype=torch.bfloat16)
    frames, rows, columns = (clip.frames - 1) // 8 + 1, clip.height // 32, clip.width // 32
    clips = Clips(
        video=empty(1, 128, frames, rows, columns),
        audio=empty(1, 8, clip.audio_tokens, 16),
        context=TextContext(empty(1, 1024, config.dim), empty(1, 1024, config.audio_dim)),
    )
    objective = TASKS["t2v"]

    def run_block(_number: int, block: nn.Module, hidden: Any, inputs: Any, switches: Any) -> Any:
        # With activation_offload one number stands for what waits in system memory and is not counted.
        held = tuple(_Moved.apply(h, (1,)) if choice.offload else h for h in hidden)

        shapes = [h.shape for h in hidden]

        def run(*given: Tensor) -> Any:
            moved = (_Moved.apply(g, shape) for g, shape in zip(given, shapes, strict=True))
            return block(*(moved if choice.offload else given), *inputs, switches)

        return checkpoint(run, *held, use_reentrant=False)

    with _as_on_a_gpu(), _Trace() as trace:
        step = prepare(objective, clips, _Draws())
        # The input layers cast to bfloat16 under autocast.
        streams = {
            name: replace(s, modality=replace(s.modality, tokens=s.modality.tokens.bfloat16()))
            for name, s in (("video", step.video), ("audio", step.audio))
            if s is not None
        }
        step = replace(step, **streams)
        loss = losses(objective, step, velocities(network, step, run_block=run_block)).total.mean()
        loss.backward()
    return trace.peak


class _Trace(Trace):
    """A trace without the kernels that have no gradient; those of :func:`_as_on_a_gpu` have one."""

    def __init__(self) -> None:
        super().__init__()
        self._fused: Any = nullcontext()


class _Draws:
    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def uniform(self, *shape: int) -> Tensor:
        return torch.empty(shape, device="meta")


class _Attention(torch.autograd.Function):
    """What flash attention holds for its backward pass, and no matrix."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


class _Moved(torch.autograd.Function):
    """Another tensor in place of one, of another shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:  # type: ignore[override]
        ctx.shape = x.shape
        return x.new_empty(shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient.new_empty(ctx.shape), None


class _Norm(torch.autograd.Function):
    """What the fused RMS norm holds: its input, and a number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        return torch.empty_like(ctx.saved_tensors[0])


def _low_rank(self: Pair, x: Tensor) -> Tensor:
    """The pair under autocast: its input as float32, and then in bfloat16 as the products are."""
    a, b = self.a.to(torch.bfloat16), self.b.to(torch.bfloat16)
    return F.linear(F.linear(x.to(self.a.dtype).to(torch.bfloat16), a), b) * self.scale


@contextmanager
def _as_on_a_gpu() -> Any:
    """A context in which the meta device computes as CUDA under autocast."""

    def attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        return _Attention.apply(q, k, v)  # type: ignore[no-any-return, no-untyped-call]

    def norm(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Norm.apply(x)  # type: ignore[no-any-return, no-untyped-call]

    def groups(timesteps: Tensor, tokens: int, device: torch.device) -> Groups:
        known = timesteps.shape[1] == 1
        return group_timesteps(timesteps, tokens, device) if known else Groups.apart(timesteps)

    with (
        patch.object(F, "scaled_dot_product_attention", attention),
        patch.object(F, "rms_norm", norm),
        patch.object(torch, "rms_norm", norm),
        patch.object(model, "group_timesteps", groups),
        patch.object(Pair, "forward", _low_rank),
    ):
        yield


if __name__ == "__main__":
    sys.exit(main())
