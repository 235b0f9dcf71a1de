"""The memory that the networks of a run need, estimated from the headers of their files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import torch

from ..config import audio_vae_config, text_config, transformer_config, video_vae_config, vocoder_config
from ..loading import Component
from ..memory import (
    AudioSize,
    DecodeChoice,
    MemoryPlan,
    ModelSize,
    PlannedStage,
    TextSize,
    choose_decode,
    encoder_bytes,
    plan_memory,
    plan_or_propose,
    source_host_bytes,
    text_stages,
    usable,
)
from ..shapes import ClipPlan
from ..storage.quantized import loaded_bytes
from ..transformer.fp8 import fp8_saving
from ..video_vae.diffusion.kernels import means_on
from .model_files import ModelFiles


class NetworkSizes(ModelFiles):
    """Model files with the bytes that their networks need, and plans for running within a memory budget."""

    def plan(
        self,
        clips: Sequence[ClipPlan],
        *,
        budget: int,
        batch: int = 1,
        text_keys: int = 0,
        source: tuple[int, int] | None = None,
        finished: ClipPlan | None = None,
        decode_dtype: torch.dtype | None = None,
        changed: bool = False,
        propose: bool = True,
        parts: int = 1,
    ) -> MemoryPlan:
        """Plan how to sample and decode ``clips``, one for each stage, within ``budget`` bytes of the device.

        ``batch`` is how many samples share one forward pass of the transformer, ``text_keys`` how many bytes
        the cached keys and values of the text take. ``source`` is the (width, height) in pixels of an edit's
        source video, whose frames are encoded too; None without one. ``finished`` is the clip that is
        decoded; None is the last of ``clips``. ``decode_dtype`` is the number format in which the video is
        decoded, None for that of the run. ``changed`` says that LoRAs change the transformer, which makes
        blocks of a GGUF file larger. ``parts`` is among how many processes the tokens are divided. Only
        headers of files are read. If no plan fits into the budget, the result is the one with the lowest
        peak, whose ``fits`` is False, with a smaller clip that fits if ``propose`` is set.
        """
        transformer = transformer_config(self.file(Component.TRANSFORMER).config)
        weights = self.component_bytes(Component.TRANSFORMER, changed=changed)
        blocks = self.component_bytes(Component.TRANSFORMER, within="transformer_blocks.", changed=changed)
        saved = 0
        if self.fp8_product is not None:
            saved = fp8_saving(self.file(Component.TRANSFORMER).infos(Component.TRANSFORMER), self.dtype)
        size = ModelSize(
            text_weights=self.text_bytes(),
            transformer_weights=weights - saved * max(0, transformer.num_layers - 2),
            # The first and the last block are larger, in 16 bits; the difference counts as resident.
            block_weights=blocks // transformer.num_layers - saved,
            decoder_weights=self.component_bytes(Component.VIDEO_DECODER, dtype=decode_dtype),
            transformer=transformer,
            vae=video_vae_config(self.file(Component.VIDEO_DECODER).config),
            connector_weights=self.connector_bytes(),
            text=self.text_size(),
            audio=self.audio_size(),
        )
        plan = partial(
            plan_memory,
            budget,
            size,
            dtype=self.dtype,
            batch=batch,
            text_keys=text_keys,
            decode_dtype=decode_dtype,
            means=means_on(self.device),
            parts=parts,
        )
        # The size of an edit is that of its source, and one with doubled frames is decoded longer than it is
        # sampled, so that a smaller clip is proposed for neither.
        if propose and source is None and finished in (None, clips[-1]):
            return plan_or_propose(lambda smaller: plan(clips=smaller), clips)
        reading = None if source is None else self._source_stage(source, clips[-1])
        return plan(clips=clips, finished=finished, source=reading)

    def _source_stage(self, size: tuple[int, int], clip: ClipPlan) -> PlannedStage:
        """The memory needs, as a stage of a plan, of reading a source video and encoding its frames.

        ``size`` is the (width, height) of the source in pixels; it is encoded at the size of ``clip``.
        """
        config = video_vae_config(self.file(Component.VIDEO_ENCODER).config)
        return PlannedStage(
            stage="source",
            weights=self.component_bytes(Component.VIDEO_ENCODER),
            activations=encoder_bytes(config, clip.width, clip.height, self.dtype),
            host=source_host_bytes(size, clip),
        )

    def decode_choice(self, clip: ClipPlan, *, dtype: torch.dtype | None = None) -> DecodeChoice | None:
        """Choose the chunks and tiles in which ``clip`` is decoded within ``max_memory``; None without it.

        ``dtype`` is the number format of the decoder, None for that of the run.
        """
        if self.max_memory is None:
            return None
        return choose_decode(
            # The weights of the decoder share the budget with what it computes.
            usable(self.max_memory) - self.component_bytes(Component.VIDEO_DECODER, dtype=dtype),
            vae=video_vae_config(self.file(Component.VIDEO_DECODER).config),
            clip=clip,
            dtype=dtype or self.dtype,
            means=means_on(self.device),
        )

    def component_bytes(
        self,
        *components: Component,
        within: str = "",
        dtype: torch.dtype | None = None,
        changed: bool = False,
    ) -> int:
        """Bytes that the tensors of ``components`` take once they are loaded in ``dtype``.

        Only tensors whose name begins with ``within`` are counted, such as ``transformer_blocks.``. The
        number format ``dtype`` is by default that of the run. ``changed`` says that LoRAs change all layers.
        """
        asked = (components, within, dtype or self.dtype, changed)
        if asked not in self._sizes:
            infos = (item for c in components for item in self.file(c).infos(c).items())
            counted = (info for name, info in infos if name.startswith(within))
            self._sizes[asked] = loaded_bytes(counted, dtype or self.dtype, changed=changed)
        return self._sizes[asked]

    @cached_property
    def _sizes(self) -> dict[tuple[tuple[Component, ...], str, torch.dtype, bool], int]:
        """Results of :meth:`component_bytes` so far: headers of checkpoints are read once."""
        # A server plans each request, and a large model has thousands of tensors.
        return {}

    def connector_bytes(self) -> int:
        """Bytes that the text connectors take once they are loaded; 0 for a model without them."""
        return self.component_bytes(*(part for part in self.text_parts if part is Component.TEXT_CONNECTORS))

    def text_bytes(self) -> int:
        """Bytes that text encoder, text projection and connectors take once they are loaded."""
        return self.text_encoder_bytes() + self.component_bytes(*self.text_parts)

    def text_encoder_bytes(self) -> int:
        """Bytes that the text encoder takes once it is loaded in the dtype of the run; 0 without one."""
        if self.text_encoder is None:
            return 0
        _, infos, _ = self.found_text_encoder(self.text_encoder)
        return loaded_bytes(infos.values(), self.dtype)

    def text_size(self) -> TextSize | None:
        """The layer widths of the text encoder, from which the memory for encoding is estimated.

        Returns None if no text encoder is named.
        """
        if self.text_encoder is None:
            return None
        settings, infos, _ = self.found_text_encoder(self.text_encoder)
        if not self.has_audio:
            return TextSize.of_t5(hidden=int(settings["d_model"]), intermediate=int(settings["d_ff"]))
        # Quantised layers may be packed along their columns, never along their rows.
        # Peak memory of Gemma is in its feed-forward, whose widths decide it.
        rows = {name: infos[f"layers.0.mlp.{name}.weight"].shape[0] for name in ("gate_proj", "down_proj")}
        config = text_config(self.file(Component.TEXT_CONNECTORS).config)
        return TextSize.of(config, hidden=rows["down_proj"], intermediate=rows["gate_proj"])

    def audio_size(self) -> AudioSize | None:
        """The configurations of audio decoder and vocoder, from which the memory for decoding is estimated.

        Returns None if one of the two is in none of the files.
        """
        parts = (Component.AUDIO_DECODER, Component.VOCODER)
        if not all(any(part in file.components for file in self.checkpoints) for part in parts):
            return None
        decoder, vocoder = (self.file(part).config for part in parts)
        return AudioSize(decoder=audio_vae_config(decoder), vocoder=vocoder_config(vocoder))

    def _text_stays_on_cpu(self) -> bool:
        """Whether the text encoder runs on the CPU, because it does not fit ``max_memory``."""
        if self.max_memory is None:
            return False
        connectors = self.connector_bytes()
        reading, _ = text_stages(self.text_bytes(), connectors, self.text_size(), self.dtype.itemsize)
        return reading.total > usable(self.max_memory)
