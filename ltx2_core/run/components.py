"""The networks of a run, loaded when they are needed and freed when they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..clock import Clock
from ..loading import Component, Lora
from ..memory import BlockStreaming, MemoryPlan
from ..text import FeatureCache, OnLayer, TextEncoder, load_gemma, load_tokenizer
from ..text.t5 import T5Encoder, load_t5
from ..transformer import Transformer
from ..transformer.fp8 import is_fp8, use_fp8
from ..transformer.fused import Fused
from ..types import Numerics, TextFeatures
from .execution import Execution
from .network_sizes import NetworkSizes

_FLOAT32 = frozenset(
    {Component.AUDIO_ENCODER, Component.AUDIO_DECODER, Component.VOCODER, Component.DURATION_HEAD}
)
"""Components that compute in float32: they are small, and audio is audibly better than in bfloat16."""


class Components(NetworkSizes):
    """Loads each network from the model files when it is used and frees it afterwards.

    ``checkpoints`` is one official file, or several that each hold some components; ``text_encoder`` is the
    file or folder of a Gemma. ``execution`` says where and how networks compute: with a ``max_memory``,
    networks that stay loaded are moved to system memory between their uses. ``numerics`` says whether results
    follow the official pipelines or ComfyUI. ``video_decoder`` is a file whose video decoder replaces that of
    the checkpoints. Headers are read at once, weights only in :meth:`use`. The attribute ``clock`` counts the
    seconds spent on loading, encoding, sampling and decoding.
    """

    def __init__(
        self,
        checkpoints: Sequence[str | os.PathLike[str]],
        text_encoder: str | os.PathLike[str] | None,
        *,
        execution: Execution,
        numerics: Numerics,
        video_decoder: str | os.PathLike[str] | None = None,
    ) -> None:
        """Read the headers of all files; raises ValueError for files that do not belong together or to LTX-2.

        ``text_encoder`` is None if no text will be encoded, or if a diffusers folder among the files contains
        it. ``video_decoder`` is a file whose decoder replaces that of ``checkpoints``; None uses theirs.
        """
        super().__init__(
            checkpoints, text_encoder, execution=execution, numerics=numerics, video_decoder=video_decoder
        )
        self.clock = Clock()
        self._holding: frozenset[Component] = frozenset()
        self._held: dict[Component, tuple[tuple[Lora, ...], nn.Module]] = {}
        self._held_text: TextEncoder | T5Encoder | None = None
        self._features = FeatureCache()

    @contextmanager
    def holding(self, *components: Component) -> Iterator[None]:
        """A context in which the networks of ``components`` stay loaded between their uses.

        With ``max_memory`` they are offloaded to system memory between their uses. At the end of the block
        they are freed, unless an outer context or ``keep_loaded`` holds them.
        """
        # Contexts may be nested, so that the set before this one is restored and not emptied.
        before, self._holding = self._holding, self._holding | {*components}
        try:
            yield
        finally:
            self._holding = before
            for component in components:
                if not self._holds(component):
                    self._held.pop(component, None)
            if not self._holds(Component.TEXT_ENCODER):
                self._held_text = None
            self.release()

    def _holds(self, component: Component) -> bool:
        return self.keep_loaded or component in self._holding

    @contextmanager
    def use(
        self,
        component: Component,
        loras: tuple[Lora, ...] = (),
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Iterator[Any]:
        """A context that yields the network of ``component`` with ``loras`` merged into its weights.

        The network is on ``device``, by default that of the run, and computes in ``dtype``, by default that
        of the run, or float32 for components that need it. It is freed at the end, unless :meth:`holding` or
        ``keep_loaded`` says that it stays loaded; in another ``dtype`` it is always freed. If the network is
        still loaded with other LoRAs, only the weights that the old or the new LoRAs change are replaced.
        """
        device = self.device if device is None else device
        # LoRAs without a layer here must not cause an exchange of weights.
        loras = tuple(lora for lora in loras if component in lora.components)
        usual = torch.float32 if component in _FLOAT32 else self.dtype
        if dtype not in (None, usual):
            # Not held, because the next run needs the usual dtype.
            with self.clock.timed("load"):
                other = self.file(component).load(
                    component, dtype=dtype, device=device, loras=loras, numerics=self.numerics, **self._matmul
                )
            try:
                yield other
            finally:
                # The name would hold the weights while memory is released.
                del other
                self.release()
            return
        dtype = usual
        # Where blocks are streamed the network is loaded to the CPU, and merged layer by layer on the GPU.
        merging = self.device if component is Component.TRANSFORMER else device
        # Taken out, so that a network whose exchange of LoRAs was interrupted is never used again.
        before, network = self._held.pop(component, ((), None))
        if network is not None and before != loras and is_fp8(network):
            # The weights that LoRAs are merged into do not exist in fp8, so the network is loaded again.
            network = None
        if network is None:
            with self.clock.timed("load"):
                network = self.file(component).load(
                    component,
                    dtype=dtype,
                    device=device,
                    loras=loras,
                    numerics=self.numerics,
                    merge_device=merging,
                    **self._matmul,
                )
        else:
            with self.clock.timed("load"):
                self._place(network, device)
                if before != loras:
                    self.file(component).switch_loras(
                        network,
                        component,
                        before=before,
                        after=loras,
                        dtype=dtype,
                        device=device,
                        merge_device=merging,
                    )
        # Stored before the block runs, because a failure within it leaves the weights as they are.
        if self._holds(component):
            self._held[component] = (loras, network)
        try:
            yield network
        finally:
            self._offload(network, component)
            # The name would hold the weights while memory is released.
            del network
            self.release()

    @contextmanager
    def use_transformer(
        self, loras: tuple[Lora, ...] = (), plan: MemoryPlan | None = None, *, fused: Fused | None = None
    ) -> Iterator[Transformer]:
        """A context that yields the transformer with ``loras`` merged into its weights.

        If ``plan`` says that blocks are streamed, those that do not fit the device are copied there whenever
        they are needed; without a plan (None) all blocks are on the device. ``fused`` holds the compiled
        kernels with which fp8 layers round their input; None rounds it by operations of PyTorch.
        """
        streamed = plan is not None and plan.streamed
        device = torch.device("cpu") if streamed or self.fp8_product is not None else None
        with self.use(Component.TRANSFORMER, loras, device=device) as transformer:
            if self.fp8_product is not None:
                # One layer after another goes to the device to be rounded: it never holds all of them.
                use_fp8(transformer, self.fp8_product, self.device, fused=fused)
                transformer.to(device if streamed else self.device)
            if plan is None or not streamed:
                yield transformer
                return
            # The network was loaded to the CPU: only the resident blocks ever lie on the device for the whole
            # stage.
            streaming = BlockStreaming(transformer, self.device, resident=plan.resident_blocks)
            try:
                yield transformer
            finally:
                streaming.close()

    def encode(
        self, prompts: Sequence[str], *, loras: tuple[Lora, ...] = (), on_layer: OnLayer | None = None
    ) -> TextFeatures:
        """Return the text features of ``prompts``, which the connectors read, on the device of the run.

        Gemma is loaded only for prompts that are not cached. ``loras`` are merged into the text projection,
        if they have layers for it. ``on_layer`` is called with (layers of Gemma done, all layers); None
        reports nothing.
        """
        loras = tuple(lora for lora in loras if Component.TEXT_PROJECTION in lora.components)

        def run(unknown: list[str]) -> TextFeatures:
            use = self.use_text_encoder(loras) if self.has_audio else self.use_t5()
            with use as encoder:
                return encoder.encode(unknown, on_layer=on_layer)

        projection = self.file(Component.TEXT_PROJECTION).path if self.has_audio else None
        # The same prompt has other features with another LoRA, so they are part of the cache's key.
        changes = tuple((lora.path, lora.strength, *lora.settings) for lora in loras)
        features = self._features.encode((self.text_encoder, projection, self.dtype, changes), prompts, run)
        # Cached features are on the CPU.
        return TextFeatures(*(t.to(self.device) for t in (features.video, features.audio, features.mask)))

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt for Gemma; only its tokenizer is loaded."""
        self.check_text_encoder()
        assert self.text_encoder is not None
        counts: list[int] = load_tokenizer(self.text_encoder)(prompts)[1].sum(dim=1).tolist()
        return counts

    def check_text_encoder(self) -> None:
        """Raise ValueError unless a text encoder is named, is complete and belongs to the checkpoint.

        Only headers are read, and none if the text encoder is loaded already.
        """
        # A text encoder that is held was checked before it was loaded.
        if self._held_text is None:
            super().check_text_encoder()

    @contextmanager
    def use_text_encoder(self, loras: tuple[Lora, ...] = ()) -> Iterator[TextEncoder]:
        """A context that yields Gemma together with the checkpoint's text projection.

        ``loras`` are merged into the projection. Both run on the CPU if they do not fit ``max_memory``.
        """
        self.check_text_encoder()
        assert self.text_encoder is not None
        device = torch.device("cpu") if self._text_stays_on_cpu() else self.device
        with self.use(Component.TEXT_PROJECTION, loras, device=device) as projection:
            # The text encoder is held apart from the projection, which alone has LoRAs.
            encoder = self._held_text
            assert not isinstance(encoder, T5Encoder)
            if encoder is None:
                with self.clock.timed("load"):
                    gemma = load_gemma(self.text_encoder, dtype=self.dtype, device=device)
                    encoder = TextEncoder(gemma, load_tokenizer(self.text_encoder), projection)
                # This name would hold the network after the encoder is freed.
                del gemma
            else:
                self._place(encoder, device)
            # The projection may have other LoRAs than when the encoder was made.
            encoder.extractor = projection
            if self._holds(Component.TEXT_ENCODER):
                self._held_text = encoder
            try:
                yield encoder
            finally:
                self._offload(encoder, Component.TEXT_ENCODER)
                # The name would hold the weights while memory is released.
                del encoder
        self.release()

    @contextmanager
    def use_t5(self) -> Iterator[T5Encoder]:
        """A context that yields the T5 of LTX-Video; it runs on the CPU if it does not fit ``max_memory``."""
        self.check_text_encoder()
        assert self.text_encoder is not None
        device = torch.device("cpu") if self._text_stays_on_cpu() else self.device
        encoder = self._held_text
        assert not isinstance(encoder, TextEncoder)
        if encoder is None:
            with self.clock.timed("load"):
                encoder = load_t5(self.text_encoder, dtype=self.dtype, device=device)
        else:
            self._place(encoder, device)
        if self._holds(Component.TEXT_ENCODER):
            self._held_text = encoder
        try:
            yield encoder
        finally:
            self._offload(encoder, Component.TEXT_ENCODER)
            # The name would hold the weights while memory is released.
            del encoder
        self.release()

    def _place(self, network: nn.Module, device: torch.device) -> None:
        """Move ``network`` to ``device``, if there is a ``max_memory``, for which it may be offloaded."""
        if self.max_memory is not None:
            network.to(device)

    def _offload(self, network: nn.Module, component: Component) -> None:
        if self.max_memory is not None and self._holds(component):
            network.to("cpu")

    def release(self) -> None:
        """Return the CUDA memory of freed networks to the device, unless all networks stay loaded on it."""
        # Freed memory stays with PyTorch's allocator, where other processes cannot use it.
        if self.device.type == "cuda" and (self.max_memory is not None or not self.keep_loaded):
            torch.cuda.empty_cache()
