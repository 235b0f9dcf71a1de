"""The tokens of a stream over several processes, each of which computes a part of them (DeepSpeed-Ulysses).

Everything but attention is computed token by token. For attention the processes exchange tokens for heads:
each gets all tokens of some heads, and sends the result back (Jacobs et al. 2023, arXiv 2309.14509).

Letters: B batch, H heads, T tokens of all processes, t of this one, D head width, C channels, P processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .guided import Bias, attend
from .modality import Modality
from .rope_tables import RopeTables


@dataclass(frozen=True)
class Shards:
    """Divides the tokens of both streams among processes.

    ``group`` is a process group of torch.distributed; None is all processes. Every process has an object of
    its own, whose methods return the part of that process.
    """

    group: Any = None

    @property
    def count(self) -> int:
        return dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    def part(self, tokens: int, rank: int | None = None) -> slice:
        """Which of ``tokens`` tokens a process computes; the parts differ in length by one at most.

        ``rank`` is the number of the process; None is this one.
        """
        rank = self.rank if rank is None else rank
        return slice(tokens * rank // self.count, tokens * (rank + 1) // self.count)

    def of(self, modality: Modality) -> Modality:
        """The part of a stream that this process computes; text, noise level and attention mask stay whole.

        Raises ValueError if there are fewer tokens than processes.
        """
        tokens = modality.tokens.shape[1]
        # An empty part would leave this process without keys to exchange.
        if tokens < self.count:
            raise ValueError(
                f"a stream has {tokens} tokens, too few for {self.count} processes: use fewer of them"
            )
        part, times, marks = self.part(tokens), modality.timesteps, modality.keyframes
        return replace(
            modality,
            tokens=modality.tokens[:, part],
            # One timestep for all tokens is valid for each part as it is.
            timesteps=times if times.shape[1] == 1 else times[:, part],
            # They are of the whole stream.
            groups=None,
            positions=modality.positions[:, :, part],
            keyframes=None if marks is None else marks[:, part],
            timed=None if modality.timed is None else modality.timed.of(part),
        )

    def cut(
        self, video: Modality | None, audio: Modality | None, rope: RopeTables | None
    ) -> tuple[Modality | None, Modality | None, RopeTables | None]:
        """The part of both streams, and of their rotary tables, that this process computes; None stays None.

        Raises ValueError if a stream has fewer tokens than there are processes.
        """
        counts = [0 if stream is None else stream.tokens.shape[1] for stream in (video, audio)]
        return (
            None if video is None else self.of(video),
            None if audio is None else self.of(audio),
            None if rope is None else rope.part(*map(self.part, counts)),
        )

    def gather(self, x: Tensor, tokens: int) -> Tensor:
        """Join the parts x (B, t, C) of all processes; every process gets (B, ``tokens``, C)."""
        sizes = [part.stop - part.start for part in self._parts(tokens)]
        longest = max(sizes)
        # A gather needs pieces of one size, so that shorter parts are padded and cut again.
        own = x.new_zeros(x.shape[0], longest, x.shape[2])
        own[:, : x.shape[1]] = x
        pieces = [torch.empty_like(own) for _ in sizes]
        dist.all_gather(pieces, own, group=self.group)
        return torch.cat([piece[:, :size] for piece, size in zip(pieces, sizes, strict=True)], dim=1)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Bias,
        *,
        tokens: tuple[int, int],
        by: Callable[..., Tensor] = attend,
    ) -> Tensor:
        """Attention over the tokens of all processes; q, k, v and the result are (B, H, t, D).

        t is the number of tokens of this process, H that of heads, D their width. ``bias`` is added to the
        logits of all tokens (None: nothing). ``tokens`` are the numbers of queries and of keys in all
        processes. ``by`` computes the heads of this process. Raises ValueError if H is not a multiple of the
        number of processes.
        """
        # The heads are what is exchanged for tokens, and each process takes equally many.
        if q.shape[1] % self.count:
            raise ValueError(
                f"{q.shape[1]} heads cannot be divided among {self.count} processes: use a divisor"
            )
        queries, keys = tokens
        out = by(self._to_heads(q, queries), self._to_heads(k, keys), self._to_heads(v, keys), bias)
        return self._to_tokens(out, queries)

    def _parts(self, tokens: int) -> list[slice]:
        return [self.part(tokens, rank) for rank in range(self.count)]

    def _to_heads(self, x: Tensor, tokens: int) -> Tensor:
        """Exchange tokens for heads: all heads of this process's tokens -> some heads of all tokens.

        (B, H, t, D) -> (B, H / P, T, D), with P processes and T = ``tokens`` tokens in all of them.
        """
        batch, heads, _, width = x.shape
        own = heads // self.count
        sizes = [part.stop - part.start for part in self._parts(tokens)]
        # Consecutive heads for each process, so that the way back is a concatenation along the heads.
        sent = [x[:, own * rank : own * (rank + 1)] for rank in range(self.count)]
        received = self._exchange(sent, [(batch, own, size, width) for size in sizes])
        return torch.cat(received, dim=2)

    def _to_tokens(self, x: Tensor, tokens: int) -> Tensor:
        """The reverse of :meth:`_to_heads`: some heads of all tokens -> all heads of this process's tokens.

        (B, H / P, T, D) -> (B, H, t, D), with P processes and T = ``tokens`` tokens in all of them.
        """
        parts = self._parts(tokens)
        batch, own, _, width = x.shape
        here = parts[self.rank].stop - parts[self.rank].start
        received = self._exchange([x[:, :, part] for part in parts], [(batch, own, here, width)] * self.count)
        return torch.cat(received, dim=1)

    def _exchange(self, sent: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Send ``sent[i]`` to process i; returns what each process i sent here, of shape ``shapes[i]``."""
        # Parts differ in length, which only the flat form of the exchange allows.
        packed = torch.cat([piece.reshape(-1) for piece in sent])
        sizes = [torch.Size(shape).numel() for shape in shapes]
        room = packed.new_empty(sum(sizes))
        dist.all_to_all_single(room, packed, sizes, [piece.numel() for piece in sent], group=self.group)
        return [piece.view(shape) for piece, shape in zip(room.split(sizes), shapes, strict=True)]
