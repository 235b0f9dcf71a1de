"""The LTX-2 diffusion transformer: one velocity for each video and audio token.

Letters: B batch, N tokens, C token channels, S text tokens, K text width, W stream width, A position axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TransformerConfig
from .adaln import AdaLNSingle, Modulation, group_timesteps
from .block import TransformerBlock
from .chunks import Chunks
from .fused import Fused
from .graphs import Graphs
from .layers import CaptionProjection
from .modality import Modality, attention_bias, context_bias
from .nag import NegativeText
from .perturbations import KEEP_ALL, Perturbations
from .rope import Rope, rope_table
from .shards import Shards
from .streams import StreamInputs, StreamSpec, audio_spec, video_spec
from .texts import TextMemory

OnBlock = Callable[[int], None]
"""Called with its number before each block runs. It may raise to stop within a step."""

Hidden = tuple[Tensor | None, Tensor | None]
"""Video and audio (B, N, W) between two blocks."""


_TABLES = ("video", "audio", "video_cross", "audio_cross")


@dataclass(frozen=True, kw_only=True)
class RopeTables:
    """Rotary tables of one clip, good for every step. The cross tables exist when both streams do."""

    video: Rope | None = None
    audio: Rope | None = None
    video_cross: Rope | None = None
    audio_cross: Rope | None = None

    def part(self, video: slice, audio: slice) -> RopeTables:
        """The tables of some of the video and audio tokens."""
        each = (
            (self.video, video),
            (self.audio, audio),
            (self.video_cross, video),
            (self.audio_cross, audio),
        )
        return RopeTables(
            **{
                name: None if table is None else table.part(tokens)
                for name, (table, tokens) in zip(_TABLES, each, strict=True)
            }
        )


class Transformer(nn.Module):
    """LTX-2.0, 2.3 and 2.5; parameters are named as in released files without ``model.diffusion_model.``.

    ``chunk_tokens`` bounds how many tokens of a stream go through its layers at once, None for all: the same
    result up to the rounding of kernels, for less memory. It holds where gradients are off, and is halved
    when memory runs out.

    ``graphs`` records the blocks of small steps and replays them, where that can be.

    With ``shards`` each of several processes computes a part of the tokens; all are given the same inputs and
    get the same result, to the rounding of kernels.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.config = config
        self._chunks = Chunks()
        self._fused: Fused | None = None
        self.graphs: Graphs | None = None
        self.shards: Shards | None = None
        layer: dict[str, Any] = {"dtype": dtype, "device": device}
        built: dict[str, Any] = {**layer, "operations": operations}
        for spec in (video_spec(config), audio_spec(config)):
            width, prefix = spec.width, spec.prefix

            def add(name: str, module: nn.Module, prefix: str = prefix) -> None:
                self.add_module(prefix + name, module)

            add("patchify_proj", operations.Linear(spec.in_channels, width, **layer))
            add("adaln_single", AdaLNSingle(width, config.modulation_rows, **built))
            self.add_module(f"av_ca_{spec.name}_scale_shift_adaln_single", AdaLNSingle(width, 4, **built))
            self.add_module(f"av_ca_{spec.cross_gate}_gate_adaln_single", AdaLNSingle(width, 1, **built))
            if config.cross_attention_adaln and config.prompt_adaln:
                add("prompt_adaln_single", AdaLNSingle(width, 2, **built))
            if config.caption_projection:
                add("caption_projection", CaptionProjection(config.caption_channels, width, **built))
            self.register_parameter(
                f"{prefix}scale_shift_table", nn.Parameter(torch.empty(2, width, **layer))
            )
            add("proj_out", operations.Linear(width, spec.out_channels, **layer))
        if config.keyframe_embedding:
            self.keyframes_abs_pos_embedding = nn.Parameter(torch.empty(1, config.dim, **layer))
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(config, **built) for _ in range(config.num_layers)
        )

    @property
    def fused(self) -> Fused | None:
        """Kernels for several elementwise operations at once; None, the default, runs each by itself."""
        return self._fused

    @fused.setter
    def fused(self, fused: Fused | None) -> None:
        self._fused = fused
        for module in self.transformer_blocks.modules():
            if hasattr(type(module), "fused"):
                module.fused = fused  # type: ignore[assignment]

    @property
    def chunk_tokens(self) -> int | None:
        return self._chunks.tokens

    @chunk_tokens.setter
    def chunk_tokens(self, tokens: int | None) -> None:
        self._chunks.tokens = tokens

    def forward(
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
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocity (B, N, C) of the video and the audio tokens; x0 = tokens - timestep * velocity.

        A stream that is None or has no tokens takes no part. The result is None for such a stream, and for
        one that is not enabled. ``rope`` saves computing the tables of ``rope_tables`` again,
        ``texts`` what is made of the text alone: give the same one with the same text.

        With ``until`` it stops before the block of that number and gives the streams as they are there. With
        ``resume`` it goes on from such streams at the block named, and may write into them.

        Raises:
            ValueError: there is no stream, batches differ, or ``rope`` or ``perturbations`` do not fit.
        """
        video, audio = _present(video), _present(audio)
        self._check(video, audio, perturbations)
        start, hidden = (0, None) if resume is None else resume
        stop = len(self.transformer_blocks) if until is None else until
        counts = [0 if stream is None else stream.tokens.shape[1] for stream in (video, audio)]
        given_tables = rope is not None
        if self.shards is not None:
            video = None if video is None else self.shards.of(video)
            audio = None if audio is None else self.shards.of(audio)
            rope = None if rope is None else rope.part(*map(self.shards.part, counts))
        if rope is None:
            tokens = (video or _given(audio)).tokens
            rope = self.rope_tables(
                None if video is None else video.positions,
                None if audio is None else audio.positions,
                dtype=tokens.dtype,
                device=tokens.device,
            )
        x = video_inputs = y = audio_inputs = None
        if video is not None:
            x = self._embed(video_spec(self.config), video) if hidden is None else hidden[0]
            video_inputs = self._inputs(
                video_spec(self.config), video, audio, rope.video, rope.video_cross, texts, counts[0]
            )
        if audio is not None:
            y = self._embed(audio_spec(self.config), audio) if hidden is None else hidden[1]
            audio_inputs = self._inputs(
                audio_spec(self.config), audio, video, rope.audio, rope.audio_cross, texts, counts[1]
            )
        del rope, hidden, resume
        graphs, inputs = self.graphs, (video_inputs, audio_inputs)
        whole = start == 0 and until is None and given_tables and not _perturbed(perturbations, stop)
        if graphs is not None and whole and graphs.why_not(self.transformer_blocks, x, y, inputs) is None:
            if on_block is not None:
                for number in range(stop):
                    on_block(number)
            return graphs.run(self, self._all_blocks, x, y, inputs)
        for number in range(start, stop):
            if on_block is not None:
                on_block(number)
            keep = KEEP_ALL if perturbations is None else perturbations.at(number)
            x, y = self.transformer_blocks[number](x, y, video_inputs, audio_inputs, keep)
        if until is not None:
            return x, y
        return (
            self._head(video_spec(self.config), x, video_inputs),
            self._head(audio_spec(self.config), y, audio_inputs),
        )

    def _all_blocks(
        self, x: Tensor | None, y: Tensor | None, video: StreamInputs | None, audio: StreamInputs | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """All blocks and the heads."""
        for block in self.transformer_blocks:
            x, y = block(x, y, video, audio, KEEP_ALL)
        return self._head(video_spec(self.config), x, video), self._head(audio_spec(self.config), y, audio)

    def rope_tables(
        self,
        video_positions: Tensor | None,
        audio_positions: Tensor | None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RopeTables:
        """Tables for video (B, 3, N, 2) and audio (B, 1, N, 2) positions; B may be 1 for a whole batch.

        They are computed in float32 and kept as ``dtype`` on ``device``, by default that of the positions.
        """
        both = video_positions is not None and audio_positions is not None
        where: dict[str, Any] = {"cross": both, "dtype": dtype, "device": device}
        video: tuple[Rope | None, Rope | None] = (None, None)
        audio: tuple[Rope | None, Rope | None] = (None, None)
        if video_positions is not None:
            video = self.stream_tables(video_positions, audio=False, **where)
        if audio_positions is not None:
            audio = self.stream_tables(audio_positions, audio=True, **where)
        return RopeTables(video=video[0], audio=audio[0], video_cross=video[1], audio_cross=audio[1])

    def stream_tables(
        self,
        positions: Tensor,
        *,
        audio: bool,
        cross: bool,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> tuple[Rope, Rope | None]:
        """The tables of one stream, for itself and, where ``cross``, for attention between the two."""
        c = self.config

        def table(axes: int, max_pos: tuple[float, ...], width: int) -> Rope:
            points = positions[:, :axes].float().mean(dim=-1)
            return rope_table(
                points, max_pos, width=width, heads=c.heads, config=c.rope, dtype=dtype, device=device
            )

        max_pos, width = ((c.audio_max_pos,), c.audio_dim) if audio else (c.max_pos, c.dim)
        seconds = (max(c.max_pos[0], c.audio_max_pos),)
        return table(positions.shape[1], max_pos, width), table(1, seconds, c.audio_dim) if cross else None

    def project_context(self, context: Tensor, *, audio: bool) -> Tensor:
        """Text (B, S, K) -> (B, S, W) of the video or the audio stream; the identity after LTX-2.0."""
        if not self.config.caption_projection:
            return context
        spec = audio_spec(self.config) if audio else video_spec(self.config)
        projected: Tensor = self._part(spec, "caption_projection")(context)
        return projected

    def _embed(self, spec: StreamSpec, modality: Modality) -> Tensor:
        x: Tensor = self._part(spec, "patchify_proj")(modality.tokens)
        if self.config.keyframe_embedding and modality.keyframes is not None and spec.name == "video":
            marked = (modality.keyframes > 0).to(x.dtype)
            x = torch.addcmul(x, marked, self.keyframes_abs_pos_embedding.to(device=x.device, dtype=x.dtype))
        return x

    def _inputs(
        self,
        spec: StreamSpec,
        modality: Modality,
        other: Modality | None,
        rope: Rope | None,
        cross_rope: Rope | None,
        texts: TextMemory | None,
        tokens: int,
    ) -> StreamInputs:
        c, dtype, device = self.config, modality.tokens.dtype, modality.tokens.device
        if rope is None or (other is not None and cross_rope is None):
            raise ValueError(
                f"rope has no tables for {spec.name}; make them with rope_tables() for the same streams"
            )
        groups = group_timesteps(modality.timesteps, modality.tokens.shape[1], device)
        timesteps = groups.timesteps * c.timestep_scale
        rows, embedding = self._part(spec, "adaln_single")(timesteps, dtype)
        prompt = cross = None
        if c.cross_attention_adaln and c.prompt_adaln:
            adaln = self._part(spec, "prompt_adaln_single")
            prompt = Modulation.of_samples(adaln(modality.sigma * c.timestep_scale, dtype)[0])
            prompt = prompt.scaling(2, slice(1, None))
        if other is not None:
            scale_shift = getattr(self, f"av_ca_{spec.name}_scale_shift_adaln_single")
            gate = getattr(self, f"av_ca_{spec.cross_gate}_gate_adaln_single")
            # How much to take from the other stream depends on how noisy that one is.
            gates = gate(other.sigma * c.cross_timestep_scale, dtype)[0]
            cross = Modulation.of(scale_shift(timesteps, dtype)[0], groups).and_samples(gates)
            cross = cross.scaling(5, slice(0, 4, 2))
        return StreamInputs(
            modulation=Modulation.of(rows, groups).scaling(len(rows), slice(1, None, 3)),
            embedding=Modulation.of(embedding.unsqueeze(0), groups),
            context=self._context(spec, modality.context, texts),
            context_bias=context_bias(modality.context_mask, dtype),
            attention_bias=attention_bias(modality.attention_mask, dtype, device),
            rope=rope.to(dtype, device),
            prompt=prompt,
            cross=cross,
            cross_rope=None if cross_rope is None else cross_rope.to(dtype, device),
            negative=self._negative(spec, modality.negative, texts),
            texts=texts,
            in_place=not torch.is_grad_enabled(),
            chunks=self._chunks,
            shards=self.shards,
            tokens=tokens,
            fused=self.fused,
            enabled=modality.enabled,
        )

    def _context(self, spec: StreamSpec, context: Tensor, texts: TextMemory | None) -> Tensor:
        audio = spec.name == "audio"
        if texts is None or not self.config.caption_projection:
            return self.project_context(context, audio=audio)
        projection = self._part(spec, "caption_projection")
        return texts.projected(projection, context, lambda: self.project_context(context, audio=audio))

    def _negative(
        self, spec: StreamSpec, negative: NegativeText | None, texts: TextMemory | None
    ) -> NegativeText | None:
        if negative is None:
            return None
        return replace(negative, context=self._context(spec, negative.context, texts))

    def _head(self, spec: StreamSpec, x: Tensor | None, inputs: StreamInputs | None) -> Tensor | None:
        if x is None or inputs is None or not inputs.enabled:
            return None
        table: Tensor = getattr(self, f"{spec.prefix}scale_shift_table")
        rows = inputs.embedding.plus(table.to(device=x.device, dtype=x.dtype), scales=slice(1, None))
        velocities: list[Tensor] = []

        def step(part: slice | None) -> None:
            tokens, start = (x, 0) if part is None else (x[:, part], part.start)
            hidden = F.layer_norm(tokens, x.shape[-1:], eps=self.config.norm_eps)
            hidden = rows.modulate(hidden, shift=0, scale=1, start=start, in_place=inputs.in_place)
            velocities.append(self._part(spec, "proj_out")(hidden))

        if inputs.in_parts:
            inputs.chunks.each(x.shape[1], step)
        else:
            step(None)
        velocity = velocities[0] if len(velocities) == 1 else torch.cat(velocities, dim=1)
        return velocity if self.shards is None else self.shards.gather(velocity, inputs.tokens)

    def _check(
        self, video: Modality | None, audio: Modality | None, perturbations: Perturbations | None
    ) -> None:
        batches = {m.tokens.shape[0] for m in (video, audio) if m is not None}
        if not batches:
            raise ValueError("both streams are absent or empty; give video, audio or both")
        if len(batches) > 1:
            raise ValueError(f"video and audio must have the same batch; got {sorted(batches)}")
        if perturbations is not None and {len(perturbations.samples)} != batches:
            raise ValueError(
                f"give one perturbation a sample: {batches.pop()}; got {len(perturbations.samples)}"
            )

    def _part(self, spec: StreamSpec, name: str) -> Any:
        return getattr(self, spec.prefix + name)


def _perturbed(perturbations: Perturbations | None, blocks: int) -> bool:
    """Whether any block leaves something out."""
    return perturbations is not None and any(perturbations.at(n) != KEEP_ALL for n in range(blocks))


def _present(modality: Modality | None) -> Modality | None:
    return None if modality is None or modality.tokens.shape[1] == 0 else modality


def _given(modality: Modality | None) -> Modality:
    assert modality is not None
    return modality
