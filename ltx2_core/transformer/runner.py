"""Calls of a transformer in less memory or time: in chunks, fused, as CUDA graphs or by several processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from . import modulation
from .block import TransformerBlock
from .branches import Attend
from .chunks import Chunks, Whole
from .fused import Fused
from .fused_tokens import BetweenBlocks, FusedTokens, plus_tables
from .graphs import Graphs
from .guided import attend
from .in_place import InPlaceTokens
from .modality import Modality
from .model import OnBlock, RunBlock, Transformer, check_streams
from .perturbations import Perturbations
from .rope import Rope
from .rope_tables import RopeTables
from .shards import Shards
from .streams import BothInputs, Hidden, StreamInputs
from .texts import TextMemory
from .tokens import Execution, PlusTables, Tokens


class Runner:
    """Calls a transformer in less memory or time, with the arguments and the result of calling it directly.

    Results agree up to the rounding of kernels. With gradients off, hidden tokens are updated in place. A
    runner stores nothing on the transformer, so that several may share one.

    Args:
        chunk_tokens: the most tokens of a stream that go through a layer at once, None for all. It is halved
            when memory runs out and stays so; runners that are passed the same ``Chunks`` share it.
        fused: computes norm, modulation and rotation in single kernels; None in separate ones.
        graphs: records the blocks of small steps and replays them, where that is possible; None never.
        shards: divides the tokens among processes. Each process passes the same inputs and gets the same
            result. None is this process alone.
        attend: the attention function of all branches.
        run_block: called in place of each block, see :meth:`Transformer.run_blocks`.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        chunk_tokens: int | Chunks | None = None,
        fused: Fused | None = None,
        graphs: Graphs | None = None,
        shards: Shards | None = None,
        attend: Attend = attend,
        run_block: RunBlock | None = None,
    ) -> None:
        self.transformer = transformer
        self.chunks = chunk_tokens if isinstance(chunk_tokens, Chunks) else Chunks(chunk_tokens)
        self.fused, self.graphs, self.shards = fused, graphs, shards
        self._attend, self._run_block = attend, run_block

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: Perturbations | None = None,
        *,
        rope: RopeTables | None = None,
        texts: TextMemory | None = None,
        on_block: OnBlock | None = None,
        until: int | None = None,
        resume: tuple[int, Hidden] | None = None,
    ) -> Hidden:
        """As :meth:`Transformer.forward`, but the hidden tokens of ``resume`` may be overwritten."""
        video, audio = check_streams(video, audio, perturbations)
        counts = [0 if stream is None else stream.tokens.shape[1] for stream in (video, audio)]
        # Tables that are computed again have other addresses in each step, and every step would be recorded.
        cached_tables = rope is not None
        if self.shards is not None:
            video, audio, rope = self.shards.cut(video, audio, rope)
        inputs = self._inputs(
            self.transformer.condition(video, audio, rope=rope, texts=texts),
            counts,
            joined=until is None and self._nothing_between(),
        )
        # The caller alone decides how long tables live, not this frame.
        del rope
        start, hidden = (0, self.transformer.embed(video, audio)) if resume is None else resume
        del resume
        blocks = len(self.transformer_blocks)
        # A record contains all blocks and both heads without perturbations, so that only such a step can be
        # one.
        complete = (
            start == 0 and until is None and (perturbations is None or perturbations.skip_nothing(blocks))
        )
        if self.graphs is not None and complete and cached_tables and self._recordable(hidden, inputs):
            # All at once before the replay, which nothing can interrupt.
            for number in range(blocks):
                if on_block is not None:
                    on_block(number)
            return self.graphs.run(self.transformer, self._compute, hidden, inputs)
        hidden = self.transformer.run_blocks(
            hidden,
            inputs,
            perturbations,
            start=start,
            until=until,
            on_block=on_block,
            run_block=self._run_block,
        )
        return hidden if until is not None else self._head(hidden, inputs, counts)

    @property
    def chunk_tokens(self) -> int | None:
        """The most tokens that go through a layer at once, None for all; lowered when memory runs out."""
        return self.chunks.tokens

    @property
    def config(self) -> TransformerConfig:
        return self.transformer.config

    @property
    def transformer_blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def get_submodule(self, name: str) -> nn.Module:
        return self.transformer.get_submodule(name)

    def rope_tables(self, *positions: Tensor | None, **where: Any) -> RopeTables:
        return self.transformer.rope_tables(*positions, **where)

    def stream_tables(self, positions: Tensor, **where: Any) -> tuple[Rope, Rope | None]:
        return self.transformer.stream_tables(positions, **where)

    def project_context(self, context: Tensor, *, audio: bool) -> Tensor:
        return self.transformer.project_context(context, audio=audio)

    def _nothing_between(self) -> bool:
        """Whether nothing reads the hidden tokens between two blocks."""

        def is_plain(block: nn.Module) -> bool:
            changed = "forward" in vars(block) or block._forward_pre_hooks or block._forward_hooks
            return type(block) is TransformerBlock and not changed

        return self._run_block is None and all(map(is_plain, self.transformer_blocks))

    def _inputs(self, inputs: BothInputs, counts: list[int], *, joined: bool) -> BothInputs:
        """A copy of ``inputs`` that says how the branches of each stream are computed.

        ``counts`` are the numbers of video and of audio tokens, of all processes together. With ``joined`` a
        block may leave its last update to the next one.
        """

        def executed(stream: StreamInputs | None, own: int, other: int) -> StreamInputs | None:
            if stream is None:
                return None
            between = BetweenBlocks() if joined else None
            return replace(stream, execution=self._execution(own, other, between))

        return executed(inputs[0], *counts), executed(inputs[1], *reversed(counts))

    def _execution(self, own: int, other: int, between: BetweenBlocks | None) -> Execution:
        tokens: Any = Tokens
        plus: PlusTables = modulation.plus_tables
        # Autograd needs the activations that these would overwrite.
        if not torch.is_grad_enabled():
            # A shard is a chunk already, and all processes have to take part in each attention.
            chunks = self.chunks if self.shards is None else Whole()
            tokens = partial(InPlaceTokens, chunks)
            if self.fused is not None:
                tokens, plus = (
                    partial(FusedTokens, self.fused, chunks, between),
                    partial(plus_tables, self.fused),
                )
        if self.shards is None:
            return Execution(tokens, self._attend, self._attend, self._attend, plus)
        shared = self.shards.attend
        # The text is whole in every process, so that attention to it exchanges nothing.
        return Execution(
            tokens,
            partial(shared, tokens=(own, own), by=self._attend),
            partial(shared, tokens=(own, other), by=self._attend),
            self._attend,
            plus,
        )

    def _recordable(self, hidden: Hidden, inputs: BothInputs) -> bool:
        # A replay can neither halve its chunks nor exchange tokens with other processes.
        whole = self.shards is None and self.chunks.tokens is None
        return (
            whole
            and self.graphs is not None
            and self.graphs.why_not(self.transformer_blocks, hidden, inputs) is None
        )

    def _compute(self, hidden: Hidden, inputs: BothInputs) -> Hidden:
        """Hidden tokens to velocities, through all blocks and the heads: what a CUDA graph records."""
        # A recording that failed between two blocks has left an update of theirs behind.
        inputs = self._inputs(inputs, [0, 0], joined=True)
        return self.transformer.head(self.transformer.run_blocks(hidden, inputs), inputs)

    def _head(self, hidden: Hidden, inputs: BothInputs, counts: list[int]) -> Hidden:
        velocities = self.transformer.head(hidden, inputs)
        if self.shards is None:
            return velocities
        video, audio = (
            None if velocity is None else self.shards.gather(velocity, count)
            for velocity, count in zip(velocities, counts, strict=True)
        )
        return video, audio


Network = Transformer | Runner
"""What a denoiser calls: both take the same arguments."""
