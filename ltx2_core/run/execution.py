"""How a run is executed: where, in which number format, within which memory, with which kernels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, TypedDict

import torch

from ..attention import attention, attention_by
from ..config import TransformerConfig
from ..memory import MemoryPlan, check_budget, parse_budget
from ..precision import usual_dtype
from ..text.connectors import CONTEXT_LENGTH
from ..transformer import Runner, Transformer, text_keys_bytes
from ..transformer.fused import Fused
from ..transformer.graphs import Graphs
from ..transformer.guided import PlainAttention, attend
from ..transformer.packed import pack_projections
from .devices import default_device, usable_device
from .distributed import Processes
from .options import by_name
from .stages import Stage

if TYPE_CHECKING:
    from typing_extensions import Unpack


log = logging.getLogger(__name__)

_SWITCHES = (
    *("fused", "keep_text_keys", "cuda_graphs", "fp8_blocks", "fp8_matmul", "nvfp4_matmul", "int8_matmul"),
)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is executed, for a pipeline and its networks, memory plans and the command line alike.

    Attributes:
        device, dtype: where and in which number format networks compute.
        keep_loaded: hold networks in memory between stages and calls.
        max_memory: bytes of the device that a run may use, or text such as "12GB"; None sets no limit.
            Transformer blocks that do not fit are copied to the device in turn. With ``keep_loaded`` networks
            are then offloaded to system memory between their uses.
        attention: the backend of the transformer's attention: "auto" (the fastest exact one that works on the
            device), "pytorch", "cudnn", "flash3" or "sage", which rounds. One that is not installed or does
            not work on ``device`` raises ValueError here.
        passes_per_call: how many guidance passes one forward pass of the transformer evaluates as a batch;
            more are faster on a GPU with free memory, and differ by rounding alone. In float32 on the CPU
            they are always evaluated one by one, so that the result is the same bit for bit.
        decoder_seed: seed of the noise from which a diffusion video decoder makes frames.
        decoder_noise: how that noise is drawn: "frame", "official" (by the generator of the run, so that
            ``decoder_seed`` must be 0) or "comfy"; "auto" is "comfy" with the numerics of ComfyUI, else
            "frame". Latents that come in pieces always have that of "frame".
        fused: join operations of the transformer that read the same tokens into one kernel each, on a GPU
            where Triton is installed; rounded differently in the last bits. Kernels that fail a trial in the
            first step are not used, and without Triton none are; the log says so.
        keep_text_keys: cache the keys and values of the text for each prompt and compute them only once,
            with the same result; 1.2 GB a prompt for LTX-2.0 in bfloat16. The keys of later models depend on
            the noise level and are not cached.
        cuda_graphs: record the transformer blocks of short clips as CUDA graphs and replay them, which saves
            the time of launching kernels; where that is impossible, blocks are computed without a graph.
        fp8_blocks: hold the large layers of all blocks but the first and the last in fp8, with a scale for
            each output row, and multiply in fp8: half the memory and faster, with rounding errors. A device
            that cannot do this computes without fp8, and ``networks.fp8_problem`` says why.
        fp8_matmul, nvfp4_matmul, int8_matmul: also multiply in fp8, NVFP4 or int8 in layers that the file
            stores in that format, which rounds their input. Opening a pipeline raises ValueError if the
            device cannot.
        processes: the place of this process among several that generate one clip (see ``join_processes``);
            each calls the pipeline in the same way and gets the same latents.
    """

    device: torch.device
    dtype: torch.dtype
    keep_loaded: bool = False
    max_memory: int | None = None
    attention: str = "auto"
    passes_per_call: int = 1
    decoder_seed: int = 0
    decoder_noise: str = "auto"
    fused: bool = True
    keep_text_keys: bool = False
    cuda_graphs: bool = False
    fp8_blocks: bool = False
    fp8_matmul: bool = False
    nvfp4_matmul: bool = False
    int8_matmul: bool = False
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        """Convert ``max_memory`` to bytes and check all values; raises TypeError or ValueError."""
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise TypeError(f"dtype={self.dtype!r} must be torch.float32, torch.bfloat16 or torch.float16")
        if self.max_memory is not None:
            # The dataclass is frozen, which holds for its own constructor, too.
            object.__setattr__(self, "max_memory", _bytes(self.max_memory, self.device))
            check_budget(self.max_memory)
        for option in map(
            by_name, ("attention", "passes_per_call", "decoder_seed", "decoder_noise", *_SWITCHES)
        ):
            object.__setattr__(self, option.name, option.read(getattr(self, option.name)))
        # Before anything is loaded.
        attention_by(self.attention, self.device)
        if not isinstance(self.keep_loaded, bool):
            raise TypeError(f"keep_loaded={self.keep_loaded!r} must be True or False")
        if self.cuda_graphs and self.device.type != "cuda":
            log.warning("cuda_graphs has no effect: the device is %s", self.device)

    @classmethod
    def on(
        cls,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> Execution:
        """Make an execution, with defaults for a ``device`` or ``dtype`` that is None.

        The default device is the first GPU that PyTorch can use (CUDA, which AMD's are too, MPS or XPU), else
        the CPU; the default dtype is that of :func:`~ltx2_core.precision.usual_dtype`. ``options`` are the
        other fields of the class. Raises what the class raises, and ValueError for a device on which this
        machine cannot compute.
        """
        where = usable_device(device or default_device())
        dtype = dtype or usual_dtype(where)
        # Text for max_memory becomes a number where all values are checked.
        return cls(device=where, dtype=dtype, **options)  # type: ignore[arg-type]

    def speed(self) -> Speed:
        """Return the settings that decide how the transformer is called, such as ``cuda_graphs``.

        With ``fused`` the result holds what the trials of kernels have found. Use one result for all runs,
        because every new one tries them again.
        """
        return Speed(
            attention=attention_by(self.attention, self.device),
            passes_per_call=self.passes_per_call,
            fused=Fused.on(self.device) if self.fused else None,
            keep_text_keys=self.keep_text_keys,
            cuda_graphs=self.cuda_graphs,
            processes=self.processes,
        )


def _bytes(budget: int | str, device: torch.device) -> int:
    """Convert a memory budget, bytes or text such as "12GB" or "auto", to bytes.

    "auto" is the free memory of ``device``. Raises TypeError for a value of another type, ValueError for
    other text.
    """
    if isinstance(budget, str):
        return parse_budget(budget, device)
    if not isinstance(budget, Integral) or isinstance(budget, bool):
        raise TypeError(f"max_memory={budget!r} must be a whole number of bytes, or text such as '12GB'")
    return int(budget)


class ExecutionOptions(TypedDict, total=False):
    """The keywords of :class:`Execution` other than ``device`` and ``dtype``."""

    keep_loaded: bool
    max_memory: int | str | None
    attention: str
    passes_per_call: int
    decoder_seed: int
    decoder_noise: str
    fused: bool
    keep_text_keys: bool
    cuda_graphs: bool
    fp8_blocks: bool
    fp8_matmul: bool
    nvfp4_matmul: bool
    int8_matmul: bool
    processes: Processes


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Settings of how the transformer is called: they change time and memory, and the clip only by rounding.

    They are the fields of :class:`Execution` with the same names, except that ``fused`` holds the kernels,
    None computing without them, and ``attention`` the function of the backend.
    """

    attention: PlainAttention = attention
    passes_per_call: int = 1
    fused: Fused | None = None
    keep_text_keys: bool = False
    cuda_graphs: bool = False
    processes: Processes = field(default_factory=Processes)

    def runner(self, transformer: Transformer, plan: MemoryPlan | None) -> Runner:
        """Return a runner that calls ``transformer`` with these settings.

        ``plan`` says how many tokens are computed at a time; without a plan (None) all are computed at once.
        With ``fused``, unless blocks are streamed, weights of ``transformer`` that multiply the same input
        are first moved together in memory.
        """
        if self.fused is not None and (plan is None or not plan.streamed):
            # Not for streamed blocks, which are copied weight by weight: that puts consecutive ones apart.
            pack_projections(transformer.transformer_blocks)
        return Runner(
            transformer,
            chunk_tokens=None if plan is None else plan.chunk_tokens,
            fused=self.fused,
            graphs=Graphs() if self.cuda_graphs else None,
            shards=self.processes.shards,
            attend=partial(attend, by=self.attention),
        )

    def batch(self, stages: Sequence[Stage]) -> int:
        """The largest number of guidance passes that one forward pass evaluates in any of ``stages``."""
        return max(min(self.passes_per_call, len(stage.guidance.passes())) for stage in stages)

    def text_keys_bytes(self, stages: Sequence[Stage], config: TransformerConfig, dtype: torch.dtype) -> int:
        """Bytes that the cached keys and values of the text need in ``stages``; 0 without ``keep_text_keys``.

        ``config`` is the transformer's, and ``dtype`` the number format of the cache. The result is 0 as well
        for models whose keys and values depend on the noise level, because theirs are not cached.
        """
        if not self.keep_text_keys:
            return 0
        # Stages run one after the other, so that the largest counts and not their sum.
        passes = max(len(stage.guidance.passes()) for stage in stages)
        texts = 1 + any(stage.needs_negative for stage in stages)
        # Passes that share a call are one text to the model.
        samples = texts if self.passes_per_call == 1 else passes
        return text_keys_bytes(config, dtype, tokens=CONTEXT_LENGTH, samples=samples)
