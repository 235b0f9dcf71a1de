"""How the transformer of a run is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..config import TransformerConfig
from ..memory import MemoryPlan
from ..text.connectors import CONTEXT_LENGTH
from ..transformer import Runner, Transformer, text_keys_bytes
from ..transformer.fused import Fused
from ..transformer.graphs import Graphs
from ..transformer.packed import pack_projections
from .distributed import Processes
from .request import Stage


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What changes the time and the memory of a run and not its clip; the words are those of the pipeline."""

    passes_per_call: int = 1
    fused: Fused | None = None
    keep_text_keys: bool = False
    cuda_graphs: bool = False
    processes: Processes = field(default_factory=Processes)

    def runner(self, transformer: Transformer, plan: MemoryPlan | None) -> Runner:
        """What calls ``transformer`` in a stage that runs by ``plan``."""
        if self.fused is not None and (plan is None or not plan.streamed):
            pack_projections(transformer.transformer_blocks)
        return Runner(
            transformer,
            chunk_tokens=None if plan is None else plan.chunk_tokens,
            fused=self.fused,
            graphs=Graphs() if self.cuda_graphs else None,
            shards=self.processes.shards,
        )

    def batch(self, stages: Sequence[Stage]) -> int:
        """The most samples that go through the transformer at once."""
        return max(min(self.passes_per_call, len(stage.guidance.passes())) for stage in stages)

    def text_keys_bytes(self, stages: Sequence[Stage], config: TransformerConfig, dtype: torch.dtype) -> int:
        """What ``keep_text_keys`` adds to ``stages``; 0 where it is off or the model does not allow it."""
        if not self.keep_text_keys:
            return 0
        passes = max(len(stage.guidance.passes()) for stage in stages)
        texts = 1 + any(stage.needs_negative for stage in stages)
        # Passes that share a call are one text to the model.
        samples = texts if self.passes_per_call == 1 else passes
        return text_keys_bytes(config, dtype, tokens=CONTEXT_LENGTH, samples=samples)
