"""The diffusion transformer of LTX-2 and LTX-Video: one velocity for each video and audio token.

Letters: B batch, N tokens, C token channels, S text tokens, K text width, W stream width, A position axes
(time, and for video also row and column).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..types import LayerOptions, NetworkOptions
from .adaln import AdaLNSingle
from .block import TransformerBlock
from .layers import CaptionProjection
from .modality import Modality, attention_bias, context_bias
from .modulation import Modulation
from .perturbations import ALL_ON, Perturbations, Switches
from .rope import Rope
from .rope_tables import RopeTables, clip_tables, stream_tables
from .streams import BothInputs, Hidden, StreamInputs, StreamSpec, audio_spec, stream_specs, video_spec
from .texts import NO_TEXT_MEMORY, TextMemory
from .timed_texts import TimedTexts
from .timesteps import Groups, group_timesteps

OnBlock = Callable[[int], None]
"""Called with its number before each block runs. It may raise to stop within a step."""

RunBlock = Callable[[int, Any, Hidden, BothInputs, Switches], Hidden]
"""Calls one block: its number, the block, hidden tokens, inputs and switches -> hidden tokens after it."""


class Transformer(nn.Module):
    """The diffusion transformer of LTX-Video and of LTX-2.0, 2.3 and 2.5, built from ``config``.

    Parameters have the names of released files, without the prefix ``model.diffusion_model.``. Layers are
    classes of ``operations``, a namespace like ``torch.nn``. Called by itself it computes all tokens at once,
    out of place, with gradients where they are enabled. A :class:`Runner` calls it in less memory or time.
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
        layer: LayerOptions = {"dtype": dtype, "device": device}
        built: NetworkOptions = {**layer, "operations": operations}
        for spec in stream_specs(config):
            width, prefix = spec.width, spec.prefix

            def add(name: str, module: nn.Module, prefix: str = prefix) -> None:
                self.add_module(prefix + name, module)

            add("patchify_proj", operations.Linear(spec.in_channels, width, **layer))
            add("adaln_single", AdaLNSingle(width, config.modulation_rows, **built))
            if config.has_audio:
                # Scale and shift for either direction follow the own noise level, the gate that of the other
                # stream.
                self.add_module(f"av_ca_{spec.name}_scale_shift_adaln_single", AdaLNSingle(width, 4, **built))
                self.add_module(f"av_ca_{spec.cross_gate}_gate_adaln_single", AdaLNSingle(width, 1, **built))
            # The two settings are separate, since a network may have static prompts: per-block tables for the
            # text, without a layer that makes them depend on the noise level.
            if config.cross_attention_adaln and config.prompt_adaln:
                add("prompt_adaln_single", AdaLNSingle(width, 2, **built))
            if config.caption_projection:
                add("caption_projection", CaptionProjection(config.caption_channels, width, **built))
            # Two vectors, shift then scale: the head has no gate.
            self.register_parameter(
                f"{prefix}scale_shift_table", nn.Parameter(torch.empty(2, width, **layer))
            )
            add("proj_out", operations.Linear(width, spec.out_channels, **layer))
        if config.keyframe_embedding:
            self.keyframes_abs_pos_embedding = nn.Parameter(torch.empty(1, config.dim, **layer))
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(config, **built) for _ in range(config.num_layers)
        )

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
    ) -> Hidden:
        """Velocity (B, N, C) of the video and the audio tokens; x0 = tokens - timestep * velocity.

        A stream that is None or has no tokens takes no part. The result is None for such a stream, and for
        one that is not enabled. ``perturbations`` say which operations are skipped, None is none. ``rope``
        are the tables of :meth:`rope_tables`, ``texts`` is a cache of what depends on the text alone; passing
        both saves computing them again in every step. ``on_block`` is called with the number of each block
        before it runs.

        With ``until`` it stops before block number ``until`` and returns hidden tokens (B, N, W) instead of
        velocities. ``resume`` is (number, hidden tokens): the forward pass continues from these tokens at the
        block of that number.

        Raises:
            ValueError: there is no stream, batches differ, or ``rope`` or ``perturbations`` do not fit.
        """
        video, audio = check_streams(video, audio, perturbations)
        inputs = self.condition(video, audio, rope=rope, texts=texts)
        start, hidden = (0, self.embed(video, audio)) if resume is None else resume
        hidden = self.run_blocks(hidden, inputs, perturbations, start=start, until=until, on_block=on_block)
        return hidden if until is not None else self.head(hidden, inputs)

    def condition(
        self,
        video: Modality | None,
        audio: Modality | None,
        *,
        rope: RopeTables | None = None,
        texts: TextMemory | None = None,
    ) -> BothInputs:
        """What every block takes in addition to tokens: modulation, text, rotary tables, attention biases.

        Returns it for video and for audio, None for an absent stream; it is the same for all blocks.
        Arguments are those of :meth:`forward`.
        """
        if rope is None:
            tokens = next(stream.tokens for stream in (video, audio) if stream is not None)
            # Positions stay float32 up to here: in bfloat16 seconds would be off by up to 1/16 of a second
            # near the end of a long clip, which changes the result by about a tenth.
            rope = self.rope_tables(
                None if video is None else video.positions,
                None if audio is None else audio.positions,
                dtype=tokens.dtype,
                device=tokens.device,
            )
        texts = NO_TEXT_MEMORY if texts is None else texts
        v = a = None
        if audio is not None and not self.config.has_audio:
            raise ValueError("this network (LTX-Video) has no audio stream: pass the video alone")
        if video is not None:
            v = self._condition(video_spec(self.config), video, audio, rope.video, rope.video_cross, texts)
        if audio is not None:
            # Each stream gets the other one as well, for the noise level that opens its cross-modal gate.
            a = self._condition(audio_spec(self.config), audio, video, rope.audio, rope.audio_cross, texts)
        return v, a

    def embed(self, video: Modality | None, audio: Modality | None) -> Hidden:
        """Project tokens (B, N, C) of both streams to the width of their stream, (B, N, W).

        LTX-2.5 adds a learned vector to the video tokens that ``keyframes`` marks as single frames.
        """
        x = None if video is None else self._embed(video_spec(self.config), video)
        y = None if audio is None else self._embed(audio_spec(self.config), audio)
        if x is not None and video is not None and video.keyframes is not None:
            # After the projection: the learned vector has the width of the stream, not of a token.
            x = self._mark_keyframes(x, video.keyframes)
        return x, y

    def run_blocks(
        self,
        hidden: Hidden,
        inputs: BothInputs,
        perturbations: Perturbations | None = None,
        *,
        start: int = 0,
        until: int | None = None,
        on_block: OnBlock | None = None,
        run_block: RunBlock | None = None,
    ) -> Hidden:
        """Run blocks ``start`` to ``until - 1`` on hidden tokens (B, N, W) of both streams.

        With ``until`` None it runs to the last block. ``inputs`` are those that :meth:`condition` returns;
        ``perturbations`` say which operations are skipped, None is none. ``on_block`` is called with the
        number of each block before it runs; ``run_block``, if not None, is called in place of the block
        itself.
        """
        x, y = hidden
        # The caller's tuple must not hold the first activations in memory through all blocks.
        del hidden
        for number in range(start, len(self.transformer_blocks) if until is None else until):
            if on_block is not None:
                # Before the block, so that an exception costs no further block.
                on_block(number)
            switches = ALL_ON if perturbations is None else perturbations.at(number)
            block = self.transformer_blocks[number]
            if run_block is None:
                x, y = block(x, y, *inputs, switches)
            else:
                x, y = run_block(number, block, (x, y), inputs, switches)
        return x, y

    def head(self, hidden: Hidden, inputs: BothInputs) -> Hidden:
        """Hidden tokens (B, N, W) -> velocities (B, N, C) of the streams that are enabled, None for others.

        ``inputs`` are those that :meth:`condition` returns.
        """
        x, y = (
            None if tokens is None or stream is None or not stream.enabled else self._head(tokens, stream)
            for tokens, stream in zip(hidden, inputs, strict=True)
        )
        return x, y

    def rope_tables(
        self,
        video_positions: Tensor | None,
        audio_positions: Tensor | None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RopeTables:
        """Rotary tables for the positions of video (B, 3, N, 2) and audio (B, 1, N, 2) tokens.

        B is the batch or 1; None is an absent stream. The last axis is start and end of a token, the second
        is seconds, and for video also pixel rows and columns. Tables are computed in float32 and stored as
        ``dtype`` on ``device``, by default that of the positions.
        """
        return clip_tables(self.config, video_positions, audio_positions, dtype=dtype, device=device)

    def stream_tables(
        self,
        positions: Tensor,
        *,
        audio: bool,
        cross: bool,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> tuple[Rope, Rope | None]:
        """Rotary tables for the tokens of one stream: ``audio``, or the video if False.

        ``positions`` are (B, 3, N, 2) for video and (B, 1, N, 2) for audio: start and end of each token in
        seconds, and for video also in pixel rows and columns. The first table is for self-attention; the
        second, for attention between the streams, is None unless ``cross``. Each has cosines and sines (B, H,
        N, D/2), of H heads of width D, stored as ``dtype`` on ``device``.
        """
        return stream_tables(self.config, positions, audio=audio, cross=cross, dtype=dtype, device=device)

    def project_context(self, context: Tensor, *, audio: bool) -> Tensor:
        """Project a text (B, S, K) to the width of the ``audio`` or the video stream, (B, S, W).

        S text tokens of width K. After LTX-2.0 a text has the right width already and is returned as it is.
        """
        spec = audio_spec(self.config) if audio else video_spec(self.config)
        return self._project(spec, context, NO_TEXT_MEMORY)

    def _embed(self, spec: StreamSpec, modality: Modality) -> Tensor:
        x: Tensor = spec.layer(self, "patchify_proj")(modality.tokens)
        return x

    def _mark_keyframes(self, x: Tensor, keyframes: Tensor) -> Tensor:
        # Markers are ignored before LTX-2.5, so that callers need not check the
        # generation.
        if not self.config.keyframe_embedding:
            return x
        mark = self.keyframes_abs_pos_embedding.to(device=x.device, dtype=x.dtype)
        return torch.addcmul(x, (keyframes > 0).to(x.dtype), mark)

    def _condition(
        self,
        spec: StreamSpec,
        modality: Modality,
        other: Modality | None,
        rope: Rope | None,
        cross_rope: Rope | None,
        texts: TextMemory,
    ) -> StreamInputs:
        c, dtype, device = self.config, modality.tokens.dtype, modality.tokens.device
        if rope is None or (other is not None and cross_rope is None):
            raise ValueError(
                f"rope has no tables for {spec.name}; make them with rope_tables() for the same streams"
            )
        groups = modality.groups or group_timesteps(modality.timesteps, modality.tokens.shape[1], device)
        # The network was trained on timesteps from 0 to 1000, callers pass sigmas from 0 to 1.
        timesteps = groups.timesteps * c.timestep_scale
        # Both results are read: the blocks take the parameters, the head takes the embedding before its SiLU.
        values, embedding = spec.layer(self, "adaln_single")(timesteps, dtype)
        adaptive_text = c.cross_attention_adaln and c.prompt_adaln
        negative = modality.negative
        if negative is not None:
            # A negative text has the width of the encoder as the positive one has, and goes through the same
            # projection.
            negative = replace(negative, context=self._project(spec, negative.context, texts))
        return StreamInputs(
            spec=spec,
            # The branches have shift, scale and gate in turn, so that every third one, from number 1 on, is a
            # scale.
            modulation=Modulation.of(values, groups, len(values), slice(1, None, 3)),
            # The head adds both of its vectors to the embedding itself, not to a projection of it.
            head=Modulation.of(embedding.unsqueeze(0), groups, 2, slice(1, None)),
            prompt=self._prompt(spec, modality) if c.cross_attention_adaln else None,
            cross=None if other is None else self._cross(spec, timesteps, groups, other, dtype),
            context=self._project(spec, modality.context, texts),
            context_bias=context_bias(modality.context_mask, dtype),
            attention_bias=attention_bias(modality.attention_mask, dtype, device),
            rope=rope.to(dtype, device),
            cross_rope=None if cross_rope is None else cross_rope.to(dtype, device),
            negative=negative,
            timed=self._timed(spec, modality, texts),
            # Keys and values of a text that the noise level modulates are others in every step.
            texts=NO_TEXT_MEMORY if adaptive_text else texts,
            enabled=modality.enabled,
        )

    def _prompt(self, spec: StreamSpec, modality: Modality) -> Modulation:
        """Shift and scale of the text of one stream from its noise level; each block adds learned ones.

        ``spec`` and ``modality`` are those of the stream. Shift and scale are zero in a network whose noise
        level does not modulate the text.
        """
        if self.config.prompt_adaln:
            adaln = spec.layer(self, "prompt_adaln_single")
            # The prompt follows the noise level of the step, not the timesteps of single tokens.
            values = adaln(modality.sigma * self.config.timestep_scale, modality.tokens.dtype)[0]
        else:
            # One zero, which broadcasts over both parameters: the learned table of each block then stands
            # alone.
            values = modality.tokens.new_zeros(1, 1, 1)
        return Modulation.of_samples(values, 2, slice(1, None))

    def _cross(
        self, spec: StreamSpec, timesteps: Tensor, groups: Groups, other: Modality, dtype: torch.dtype
    ) -> Modulation:
        """Modulation of one stream for attention between the streams.

        It is scale and shift for either direction, then a gate. Scale and shift depend on ``timesteps``,
        those of this stream's ``groups`` of tokens. The gate is for what this stream takes from the
        ``other``, and depends on the noise level of the other.
        """
        # The own timesteps of each token, unlike the gate below; early releases and some ports use one for
        # both, which agrees only while both streams are wholly noisy.
        scale_shift = getattr(self, f"av_ca_{spec.name}_scale_shift_adaln_single")(timesteps, dtype)[0]
        gate_adaln = getattr(self, f"av_ca_{spec.cross_gate}_gate_adaln_single")
        # How much to take from the other stream depends on how noisy that one is.
        gate = gate_adaln(other.sigma * self.config.cross_timestep_scale, dtype)[0]
        # These parameters begin with the scale: numbers 0 and 2.
        return Modulation.of(scale_shift, groups, 4, slice(0, 4, 2)).and_samples(gate)

    def _timed(self, spec: StreamSpec, modality: Modality, texts: TextMemory) -> TimedTexts | None:
        """The texts by time of one stream at the width of the stream; None if it has one text."""
        if modality.timed is None:
            return None
        return modality.timed.with_contexts(lambda context: self._project(spec, context, texts))

    def _project(self, spec: StreamSpec, context: Tensor, texts: TextMemory) -> Tensor:
        if not self.config.caption_projection:
            return context
        # LTX-Video and LTX-2.0 project inside the transformer; later ones project before the connectors.
        projection: nn.Module = spec.layer(self, "caption_projection")
        return texts.projected(projection, context, lambda: projection(context))

    def _head(self, x: Tensor, inputs: StreamInputs) -> Tensor:
        # The head's table is a bare parameter, which the layers of a host do not cast.
        table = inputs.spec.layer(self, "scale_shift_table").to(device=x.device, dtype=x.dtype)
        tokens = inputs.execution.tokens(x, self.config.norm_eps)
        modulation = inputs.head.shift_scale(inputs.head.plus(table))
        return tokens.project(inputs.spec.layer(self, "proj_out"), modulation)


def check_streams(
    video: Modality | None, audio: Modality | None, perturbations: Perturbations | None
) -> tuple[Modality | None, Modality | None]:
    """``video`` and ``audio`` as they were passed, with None in place of a stream without tokens.

    Raises ValueError if no stream is left, if batches differ, or if ``perturbations`` are not one per sample.
    """
    # An empty audio latent means video alone, as in ComfyUI.
    present = [m if m is not None and m.tokens.shape[1] else None for m in (video, audio)]
    batches = {m.tokens.shape[0] for m in present if m is not None}
    if not batches:
        raise ValueError("both streams are absent or empty; give video, audio or both")
    if len(batches) > 1:
        raise ValueError(f"video and audio must have the same batch; got {sorted(batches)}")
    if perturbations is not None and {len(perturbations.samples)} != batches:
        raise ValueError(f"give one perturbation a sample: {batches.pop()}; got {len(perturbations.samples)}")
    return present[0], present[1]
