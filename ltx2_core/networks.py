"""The networks of a run, loaded when they are needed and let go when they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .loading import (
    Checkpoint,
    Component,
    Lora,
    LoraReport,
    LoraSpec,
    find_component,
    open_checkpoint,
    open_lora,
)
from .loading.diffusers import text_encoder_folder
from .loading.text_match import check_text_encoder
from .storage.quantized import check_matmul, loaded_bytes
from .text import FeatureCache, OnLayer, TextEncoder, load_gemma, load_tokenizer
from .text.gemma import find_encoder
from .types import Numerics, TextFeatures

LoraFile = LoraSpec | tuple[str | os.PathLike[str], float] | str | os.PathLike[str]
"""A LoRA file, with its strength or with one for each stream."""

_WITH_LORA = (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION)

_FLOAT32 = frozenset({Component.AUDIO_ENCODER, Component.AUDIO_DECODER, Component.VOCODER})
"""Small, and audibly better than in bfloat16."""


class Networks:
    """Where each component comes from, and the ones that are loaded.

    ``checkpoints`` may be one official file or the components in several; the first that holds a component
    gives it. Headers are read at once, weights when :meth:`use` asks for them.
    """

    def __init__(
        self,
        checkpoints: Sequence[str | os.PathLike[str]],
        text_encoder: str | os.PathLike[str] | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        numerics: Numerics,
        keep_loaded: bool,
        fp8_matmul: bool = False,
        nvfp4_matmul: bool = False,
    ) -> None:
        """Raises ValueError for files that are not LTX-2 and for a product that ``device`` does not have."""
        check_matmul(device, fp8_matmul=fp8_matmul, nvfp4_matmul=nvfp4_matmul)
        self.checkpoints = tuple(open_checkpoint(path) for path in checkpoints)
        own = (text_encoder_folder(checkpoint.path) for checkpoint in self.checkpoints)
        beside = next((folder for folder in own if folder is not None), None)
        self.text_encoder = beside if text_encoder is None else Path(text_encoder)
        if self.text_encoder is not None and self.text_encoder.is_file():
            # The encoder file of LTX-2.5 brings the projection along.
            packed = open_checkpoint(self.text_encoder)
            if Component.TEXT_PROJECTION in packed.components:
                self.checkpoints = (*self.checkpoints, packed)
        self.device = device
        self.dtype = dtype
        self.numerics = numerics
        self.keep_loaded = keep_loaded
        self._matmul = {"fp8_matmul": fp8_matmul, "nvfp4_matmul": nvfp4_matmul}
        self._held: dict[Component, tuple[tuple[Lora, ...], nn.Module]] = {}
        self._held_text: TextEncoder | None = None
        self._features = FeatureCache()

    def file(self, component: Component) -> Checkpoint:
        """The file that ``component`` comes from. Raises ValueError where none of the files holds it."""
        return find_component(self.checkpoints, component)

    @contextmanager
    def use(self, component: Component, loras: tuple[Lora, ...] = ()) -> Iterator[Any]:
        """The network of ``component`` on the device, with ``loras`` merged, for the length of the block.

        One that is held with other LoRAs gets these in their place; its other weights stay where they are.
        """
        loras = tuple(lora for lora in loras if component in lora.components)
        dtype = torch.float32 if component in _FLOAT32 else self.dtype
        # Taken out, so that nobody gets a network of which an exchange of LoRAs was interrupted.
        before, network = self._held.pop(component, ((), None))
        if network is None:
            network = self.file(component).load(
                component,
                dtype=dtype,
                device=self.device,
                loras=loras,
                numerics=self.numerics,
                **self._matmul,
            )
        elif before != loras:
            self.file(component).switch_loras(
                network, component, before=before, after=loras, dtype=dtype, device=self.device
            )
        if self.keep_loaded:
            self._held[component] = (loras, network)
        yield network
        del network
        self._release()

    def lora_report(self, lora: Lora) -> LoraReport:
        """What ``lora`` changes in the files of this run, told from headers.

        Raises ValueError where it fits nowhere.
        """
        parts = {c: self.file(c).shapes(c) for c in _WITH_LORA}
        report = lora.report_all(parts, self.file(Component.TRANSFORMER).generation)
        report.require_match()
        return report

    def encode(
        self, prompts: Sequence[str], *, loras: tuple[Lora, ...] = (), on_layer: OnLayer | None = None
    ) -> TextFeatures:
        """Features of ``prompts`` on the device; Gemma is only loaded for those that were not met lately."""
        loras = tuple(lora for lora in loras if Component.TEXT_PROJECTION in lora.components)

        def run(unknown: list[str]) -> TextFeatures:
            with self.use_text_encoder(loras) as encoder:
                return encoder.encode(unknown, on_layer=on_layer)

        projection = self.file(Component.TEXT_PROJECTION).path
        changes = tuple((lora.path, lora.strength, *lora.settings) for lora in loras)
        features = self._features.encode((self.text_encoder, projection, self.dtype, changes), prompts, run)
        return TextFeatures(*(t.to(self.device) for t in (features.video, features.audio, features.mask)))

    @contextmanager
    def use_text_encoder(self, loras: tuple[Lora, ...] = ()) -> Iterator[TextEncoder]:
        """Gemma with the checkpoint's projection, for the length of the block."""
        if self.text_encoder is None:
            raise ValueError("no text encoder is given; give the folder or file of a Gemma 3 as text_encoder")
        with self.use(Component.TEXT_PROJECTION, loras) as projection:
            encoder = self._held_text
            if encoder is None:
                check_text_encoder(self.checkpoints, self.text_encoder)
                gemma = load_gemma(self.text_encoder, dtype=self.dtype, device=self.device)
                encoder = TextEncoder(gemma, load_tokenizer(self.text_encoder), projection)
                del gemma
            encoder.extractor = projection
            if self.keep_loaded:
                self._held_text = encoder
            yield encoder
        del encoder
        self._release()

    def text_encoder_bytes(self) -> int:
        """Size of the text encoder once it is loaded for this run; 0 where none is given."""
        if self.text_encoder is None:
            return 0
        _, infos, _ = find_encoder(self.text_encoder)
        return loaded_bytes(infos.values(), self.dtype)

    def _release(self) -> None:
        if self.device.type == "cuda" and not self.keep_loaded:
            torch.cuda.empty_cache()


def open_loras(files: Sequence[LoraFile]) -> tuple[Lora, ...]:
    """Headers of LoRA files with their strengths."""
    return tuple(_open(file) for file in files)


def _open(file: LoraFile) -> Lora:
    if isinstance(file, tuple):
        return open_lora(*file)
    if not isinstance(file, LoraSpec):
        return open_lora(file)
    return open_lora(
        file.path,
        file.strength,
        video_strength=file.video_strength,
        audio_strength=file.audio_strength,
    )
