"""The transformer with the signature of ComfyUI: latents, timesteps and conditioning to velocities.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens, S
text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.lightricks.symmetric_patchifier import AudioPatchifier, SymmetricPatchifier
from torch import Tensor

from ...ltx2_core.config import TextConfig, TransformerConfig
from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.shapes import AUDIO_BINS, AUDIO_CHANNELS, SPATIAL_SCALE, TEMPORAL_SCALE
from ...ltx2_core.text.connectors import TextConnectors
from ...ltx2_core.transformer import RopeMemory, Transformer
from ...ltx2_core.transformer.chunks import Chunks
from ...ltx2_core.transformer.fused import Fused
from ...ltx2_core.transformer.streams import BothInputs, Hidden
from ...ltx2_core.transformer.tiles import TileMemory
from ...ltx2_core.types import TextFeatures
from .call import Call, Options, velocities
from .forking import FORK, Late
from .guides import Entry, Slots
from .host_blocks import as_host_block
from .host_connectors import as_host_connectors
from .known_clip import KnownClip
from .notices import USE_CORE, notice_once
from .prompt_parts import PromptParts
from .values import ReferenceAudio

WITHOUT_EFFECT = {"latent_shapes", "audio_denoise_mask"}
"""Arguments of a call that need no notice: others of their kind, or the model itself, have read them."""


class HostTransformer(Transformer):
    """Transformer and text connectors in one network, with the tensor names of released single files.

    It has attributes and methods, such as ``patchifier``, that only ComfyUI and other packs read; packs also
    replace and wrap its blocks.
    """

    def __init__(
        self,
        config: TransformerConfig,
        text: TextConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = torch.nn,
    ) -> None:
        super().__init__(config, dtype=dtype, device=device, operations=operations)
        connectors = TextConnectors(text, dtype=dtype, device=device, operations=operations)
        self.video_embeddings_connector = connectors.video_embeddings_connector
        self.audio_embeddings_connector = connectors.audio_embeddings_connector
        self.text_config = text
        self.rope_memory, self.tile_memory = RopeMemory(), TileMemory()
        # Held here, so that each kernel is tried once for all clones of the MODEL.
        self.fused = Fused()
        self.chunks = Chunks()
        # A module in a tuple is no submodule, which would give the connectors' weights a second name.
        self._connectors = (connectors,)
        for block in self.transformer_blocks:
            as_host_block(block)
        as_host_connectors(connectors)
        # The host reads this attribute to choose the dtype of latents.
        self.dtype = dtype
        self.patchifier = SymmetricPatchifier(1, start_end=True)
        self.a_patchifier = AudioPatchifier(1, start_end=True)
        self.vae_scale_factors = (TEMPORAL_SCALE, SPATIAL_SCALE, SPATIAL_SCALE)
        self.causal_temporal_positioning = True
        self.inner_dim, self.audio_inner_dim = config.dim, config.audio_dim
        self.cross_attention_dim, self.audio_cross_attention_dim = config.dim, config.audio_dim
        self.num_attention_heads = self.audio_num_attention_heads = config.heads
        self.num_audio_channels, self.audio_frequency_bins = AUDIO_CHANNELS, AUDIO_BINS
        self.caption_channels = config.caption_channels
        self.caption_proj_before_connector = not config.caption_projection
        self.caption_projection_first_linear = config.caption_projection
        if not config.caption_projection:
            # Other packs call them, or check whether they exist, in every generation.
            self.caption_projection = self.audio_caption_projection = _unchanged
        self.in_channels = config.in_channels

    def preprocess_text_embeds(self, context: Tensor, unprocessed: bool = False) -> Tensor:
        """Run the text connectors on the features of valid tokens (B, tokens, width of the features).

        Returns the contexts of video and audio joined along their width: (B, 1024, video width + audio
        width). ``unprocessed`` says that ``context`` holds features; without it, a context that is as wide as
        the result has been through the connectors already and is returned unchanged. Raises ValueError for
        any other width.
        """
        video, audio = self.text_config.video.dim, self.text_config.audio.dim
        # The flag decides where widths coincide: features and contexts may be equally wide.
        if not unprocessed and context.shape[-1] == video + audio:
            return context
        widths = (video, audio) if self.text_config.per_token_norm else (video,)
        if context.shape[-1] != sum(widths):
            raise ValueError(
                f"the text conditioning is {context.shape[-1]} wide and this checkpoint takes {sum(widths)}: "
                "encode the prompt with a text encoder loaded for the same checkpoint"
            )
        # Without a norm per token (LTX-2.0) one projection serves both streams, which then read the same
        # features.
        parts = context.split(widths, dim=-1)
        # The CLIP returns valid tokens only; the connectors add the registers themselves.
        mask = torch.ones(context.shape[:2], dtype=torch.int64, device=context.device)
        features = TextFeatures(parts[0], parts[-1], mask)
        result = attempt("encoding the prompt", lambda: self._connectors[0](features))
        return torch.cat((result.video, result.audio), dim=-1)

    def separate_audio_and_video_latents(
        self, x: Sequence[Tensor], audio_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (video, audio) from the latents of a call, [video, audio] or [video].

        Without audio, the audio returned is a tensor of length 0. ``audio_length`` is not read; it is in
        ComfyUI's signature.
        """
        if len(x) > 1:
            return x[0], x[1]
        return x[0], x[0].new_zeros(len(x[0]), AUDIO_CHANNELS, 0, AUDIO_BINS)

    def recombine_audio_and_video_latents(
        self, vx: Tensor, ax: Tensor, target_shape: Sequence[int] | None = None
    ) -> list[Tensor] | Tensor:
        """Join video ``vx`` and audio ``ax`` to [video, audio]; if ``ax`` is empty, return ``vx`` alone.

        ``target_shape`` is not read; it is in ComfyUI's signature.
        """
        return [vx, ax] if ax.numel() else vx

    def forward(  # type: ignore[override]
        self,
        x: list[Tensor],
        timestep: Tensor | tuple[Tensor, Tensor],
        context: Tensor,
        attention_mask: Tensor | None = None,
        frame_rate: float = 25,
        transformer_options: Options = {},  # noqa: B006 the host's signature; it is only read
        keyframe_idxs: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        **conds: Any,
    ) -> list[Tensor] | Tensor:
        """Compute the velocities of the latents ``x`` = [video (B, 128, F, H, W), audio (B, 8, T, 16)].

        Returns a list like ``x``, or a tensor if ``x`` is only a video. ``timestep`` has the noise levels in
        [0, 1], each (B,) or (B, tokens): (video's, audio's), or one tensor for both. ``context`` holds the
        text of both streams joined along the width, and ``attention_mask`` says which of its tokens are
        valid. ``keyframe_idxs`` (B, 3, guide tokens, 2) are the coordinates of guides, ``denoise_mask`` is
        that of the video; ``conds`` are other conditioning.
        """
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        # Other packs wrap the network by the host's patcher, so an evaluation must pass through its executor.
        run = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._attempted, self, wrappers)
        result: list[Tensor] | Tensor = run.execute(
            x,
            timestep,
            context,
            attention_mask,
            frame_rate,
            transformer_options,
            keyframe_idxs,
            denoise_mask=denoise_mask,
            **conds,
        )
        return result

    def head(self, hidden: Hidden, inputs: BothInputs) -> Hidden:
        """Hidden tokens (B, N, W) -> velocities (B, N, C) of both streams, None for an absent one.

        As in ComfyUI's network a stream that ``run_vx`` or ``run_ax`` switches off has a velocity too, that
        of its tokens before the first block: the other stream attends to it in the next step.
        """
        video, audio = (None if stream is None else replace(stream, enabled=True) for stream in inputs)
        return super().head(hidden, (video, audio))

    def _attempted(self, *inputs: Any, **conds: Any) -> list[Tensor] | Tensor:
        """Compute the velocities, from the arguments of ``forward``; a second time if memory runs out.

        A guidance pass that resumes from hidden states of an earlier pass is not tried again, because the
        first attempt has written into these states.
        """
        options = inputs[5] if len(inputs) > 5 else conds.get("transformer_options", {})
        again = not isinstance(options.get(FORK), Late)
        return attempt("sampling", lambda: self._velocities(*inputs, **conds), again=again)

    def _velocities(
        self,
        x: list[Tensor],
        timestep: Tensor | tuple[Tensor, Tensor],
        context: Tensor,
        attention_mask: Tensor | None,
        frame_rate: float,
        transformer_options: Options,
        keyframe_idxs: Tensor | None,
        denoise_mask: Tensor | None = None,
        guide_attention_entries: list[Entry] | None = None,
        ref_audio: ReferenceAudio | None = None,
        generated_keyframes: Slots | None = None,
        ltx2_prompt_parts: PromptParts | None = None,
        ltx2_known_clip: KnownClip | None = None,
        **unused: Any,
    ) -> list[Tensor] | Tensor:
        _name_unused(unused)
        if generated_keyframes is not None and not self.config.keyframe_embedding:
            raise ValueError(
                "this model cannot generate keyframes, which LTX-2.5 introduced: load a checkpoint of it, or "
                "remove LTX-2 Add Generated Keyframes"
            )
        # The host passes a bare tensor for video alone.
        latents = list(x) if isinstance(x, (list, tuple)) else [x]
        widths = (self.text_config.video.dim, self.text_config.audio.dim)
        call = Call(
            video=latents[0],
            audio=latents[1] if len(latents) > 1 else None,
            # Another pack may replace ``process_timestep`` and pass one noise level for both streams.
            timesteps=timestep if isinstance(timestep, tuple) else (timestep, timestep),
            contexts=context.split(widths, dim=-1),
            context_mask=attention_mask,
            fps=frame_rate,
            options=transformer_options,
            guide_coordinates=keyframe_idxs,
            denoise_mask=denoise_mask,
            entries=guide_attention_entries or [],
            keyframes=generated_keyframes,
            reference=ref_audio,
            prompt_parts=ltx2_prompt_parts,
            known=(ltx2_known_clip or KnownClip()).fitting(denoise_mask, None, keyframe_idxs),
        )
        return velocities(
            self,
            call,
            chunks=self.chunks,
            rope_memory=self.rope_memory,
            tile_memory=self.tile_memory,
            fused=self.fused,
        )


# Other packs find out by this name whether a network has both streams.
HostTransformer.__name__ = "LTXAVModel"


def _name_unused(conds: Mapping[str, Any]) -> None:
    for name in sorted(conds.keys() - WITHOUT_EFFECT):
        if conds[name] is not None:
            notice_once(f"the conditioning has {name}, which has no effect on this network. {USE_CORE}")


def _unchanged(features: Tensor) -> Tensor:
    return features
