"""The networks of a run, loaded when they are needed and freed when they are not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..clock import Clock
from ..config import audio_vae_config, text_config, transformer_config, video_vae_config, vocoder_config
from ..loading import (
    Checkpoint,
    Component,
    Lora,
    LoraReport,
    LoraSpec,
    find_component,
    open_checkpoint,
    open_lora,
)
from ..loading.file_set import check_generations, check_set
from ..loading.folder import text_encoder_folder
from ..loading.lora import STACKED
from ..loading.text_match import check_text_encoder
from ..memory import (
    AudioSize,
    BlockStreaming,
    DecodeChoice,
    MemoryPlan,
    ModelSize,
    PlannedStage,
    TextSize,
    choose_decode,
    encoder_bytes,
    plan_memory,
    source_host_bytes,
    text_stages,
    usable,
)
from ..shapes import ClipPlan
from ..storage.files import JsonObject
from ..storage.identity import identity
from ..storage.quantized import check_matmul, loaded_bytes
from ..text import FeatureCache, OnLayer, TextEncoder, check_tokenizer, load_gemma, load_tokenizer
from ..text.gemma import find_encoder
from ..transformer import Transformer
from ..transformer.fp8 import Product, fp8_problem, fp8_saving, is_fp8, kernel_product, use_fp8
from ..transformer.fused import Fused
from ..types import Numerics, TextFeatures
from .execution import Execution

LoraFile = LoraSpec | tuple[str | os.PathLike[str], float] | str | os.PathLike[str]
"""A LoRA file, with its strength or with one for each stream."""

_log = logging.getLogger(__name__)

_WITH_LORA = (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION)

_FLOAT32 = frozenset({Component.AUDIO_ENCODER, Component.AUDIO_DECODER, Component.VOCODER})
"""Small, and audibly better than in bfloat16."""


class Components:
    """Finds each network in the model files, loads it when it is used and frees it afterwards.

    ``checkpoints`` is one official file, or several files that each hold some of the components. Their
    headers are read at once, weights only in :meth:`use`. ``execution`` says where and how networks compute.
    If it has a ``max_memory``, networks that stay loaded are moved to system memory between their uses.

    The attribute ``fp8_problem`` says why ``fp8_blocks`` cannot be used here, None if it can. ``clock``
    counts the seconds spent on loading, encoding, sampling and decoding.
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
        """Read the headers of all files.

        Raises ValueError for files that are not of LTX-2 or do not belong together (see ``check_set``), and
        if the device cannot multiply in fp8 or NVFP4 where ``execution`` requires that.
        """
        # The product is checked before any file is opened, because it fails by the device alone.
        matmul = {"fp8_matmul": execution.fp8_matmul, "nvfp4_matmul": execution.nvfp4_matmul}
        device, dtype = execution.device, execution.dtype
        check_matmul(device, **matmul)
        self.checkpoints = tuple(open_checkpoint(path) for path in checkpoints)
        check_set(self.checkpoints)
        self.video_decoder = None if video_decoder is None else open_video_decoder(video_decoder)
        if self.video_decoder is not None:
            check_generations((*self.checkpoints, self.video_decoder))
        own = (text_encoder_folder(checkpoint.path) for checkpoint in self.checkpoints)
        # A diffusers folder has its text encoder next to the other components; one that is named takes
        # precedence.
        included = next((folder for folder in own if folder is not None), None)
        # A folder is checked only by a run that encodes text, because decoding needs no Gemma.
        self.text_encoder = included if text_encoder is None else Path(text_encoder)
        if self.text_encoder is not None and self.text_encoder.is_file():
            # The encoder file of LTX-2.5 also holds the projection.
            packed = open_checkpoint(self.text_encoder)
            if Component.TEXT_PROJECTION in packed.components:
                self.checkpoints = (*self.checkpoints, packed)
                check_generations(self.checkpoints)
        self.device = device
        self.dtype = dtype
        self.numerics = numerics
        self.keep_loaded = execution.keep_loaded
        self.max_memory = execution.max_memory
        self._matmul = matmul
        self.fp8_problem = fp8_problem(device, dtype) if execution.fp8_blocks else None
        self.fp8_product: Product | None = None
        if execution.fp8_blocks and self.fp8_problem is None:
            self.fp8_product = kernel_product
        elif execution.fp8_blocks:
            _log.warning("blocks are not held in fp8: %s", self.fp8_problem)
        self.clock = Clock()
        self._holding: frozenset[Component] = frozenset()
        self._held: dict[Component, tuple[tuple[Lora, ...], nn.Module]] = {}
        self._held_text: TextEncoder | None = None
        self._features = FeatureCache()

    def file(self, component: Component) -> Checkpoint:
        """The file that ``component`` comes from. Raises ValueError where none of the files holds it."""
        if component is Component.VIDEO_DECODER and self.video_decoder is not None:
            return self.video_decoder
        return find_component(self.checkpoints, component)

    @contextmanager
    def holding(self, *components: Component) -> Iterator[None]:
        """A context in which the networks of ``components`` stay loaded between their uses.

        With ``max_memory`` they are offloaded to system memory between their uses. They are freed at the end.
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
            self._release()

    def _holds(self, component: Component) -> bool:
        return self.keep_loaded or component in self._holding

    @contextmanager
    def use(
        self, component: Component, loras: tuple[Lora, ...] = (), *, device: torch.device | None = None
    ) -> Iterator[Any]:
        """A context that yields the network of ``component`` with ``loras`` merged into its weights.

        It is on ``device``, by default the device of the run, and is freed at the end unless it is held. If
        the network is already loaded with other LoRAs, only the weights that these and the new ones change
        are exchanged.
        """
        device = self.device if device is None else device
        # LoRAs without a layer here must not cause an exchange of weights.
        loras = tuple(lora for lora in loras if component in lora.components)
        dtype = torch.float32 if component in _FLOAT32 else self.dtype
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
                    **self._matmul,
                )
        else:
            with self.clock.timed("load"):
                self._place(network, device)
                if before != loras:
                    self.file(component).switch_loras(
                        network, component, before=before, after=loras, dtype=dtype, device=device
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
            self._release()

    @contextmanager
    def use_transformer(
        self, loras: tuple[Lora, ...] = (), plan: MemoryPlan | None = None, *, fused: Fused | None = None
    ) -> Iterator[Transformer]:
        """A context that yields the transformer with ``loras`` merged.

        If ``plan`` says that blocks are streamed, those that do not fit are copied to the device when they
        are needed; without a plan all are on the device. ``fused`` holds the compiled kernels with which fp8
        layers round their input.
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

    def plan(
        self,
        clips: Sequence[ClipPlan],
        *,
        budget: int,
        batch: int = 1,
        text_keys: int = 0,
        source: tuple[int, int] | None = None,
    ) -> MemoryPlan:
        """Plan how to sample and decode ``clips``, one for each stage, within ``budget`` bytes.

        ``batch`` is how many samples share one forward pass of the transformer, ``text_keys`` how many bytes
        the cached keys and values of the text take. ``source`` is the (width, height) of an edit's source,
        which is encoded too. Only headers of files are read.
        """
        transformer = transformer_config(self.file(Component.TRANSFORMER).config)
        weights = self.component_bytes(Component.TRANSFORMER)
        blocks = self.component_bytes(Component.TRANSFORMER, within="transformer_blocks.")
        saved = 0
        if self.fp8_product is not None:
            saved = fp8_saving(self.file(Component.TRANSFORMER).infos(Component.TRANSFORMER), self.dtype)
        size = ModelSize(
            text_weights=self.text_bytes(),
            transformer_weights=weights - saved * max(0, transformer.num_layers - 2),
            # The first and the last block are larger, in 16 bits; the difference counts as resident.
            block_weights=blocks // transformer.num_layers - saved,
            decoder_weights=self.component_bytes(Component.VIDEO_DECODER),
            transformer=transformer,
            vae=video_vae_config(self.file(Component.VIDEO_DECODER).config),
            connector_weights=self.component_bytes(Component.TEXT_CONNECTORS),
            text=self.text_size(),
            audio=self.audio_size(),
        )
        reading = None if source is None else self._source_stage(source, clips[-1])
        return plan_memory(
            budget, size, clips=clips, dtype=self.dtype, batch=batch, text_keys=text_keys, source=reading
        )

    def _source_stage(self, size: tuple[int, int], clip: ClipPlan) -> PlannedStage:
        """The memory for reading frames of ``size`` (width, height) and encoding them for ``clip``."""
        config = video_vae_config(self.file(Component.VIDEO_ENCODER).config)
        return PlannedStage(
            stage="source",
            weights=self.component_bytes(Component.VIDEO_ENCODER),
            activations=encoder_bytes(config, clip.width, clip.height, self.dtype),
            host=source_host_bytes(size, clip),
        )

    def decode_choice(self, clip: ClipPlan) -> DecodeChoice | None:
        """Choose the chunks and tiles in which ``clip`` is decoded within ``max_memory``; None without it."""
        if self.max_memory is None:
            return None
        return choose_decode(
            # The weights of the decoder share the budget with what it computes.
            usable(self.max_memory) - self.component_bytes(Component.VIDEO_DECODER),
            vae=video_vae_config(self.file(Component.VIDEO_DECODER).config),
            clip=clip,
            dtype=self.dtype,
        )

    def identity(self) -> JsonObject:
        """JSON values that identify the networks of this run: digests of their files, dtype and arithmetic.

        LoRAs are not part of them. ``storage.identity`` describes what a digest covers.
        """
        return {
            "files": self.digests(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "numerics": self.numerics.value,
            **self._matmul,
            "fp8_blocks": self.fp8_product is not None,
        }

    def digests(self) -> dict[str, str]:
        """Return a dict: name of a component (or "text encoder") -> digest of the files that hold it."""
        files: dict[str, str] = {}
        for component in Component:
            file = next((f for f in self.checkpoints if component in f.components), None)
            if component is Component.VIDEO_DECODER:
                file = self.video_decoder or file
            if file is not None:
                files[str(component)] = identity(info.path for info in file.infos(component).values())
        if self.text_encoder is not None:
            _, infos, _ = find_encoder(self.text_encoder)
            files["text encoder"] = identity(info.path for info in infos.values())
        return files

    def component_bytes(self, *components: Component, within: str = "") -> int:
        """Bytes that the tensors of ``components`` take once they are loaded in this run's number format.

        Only tensors whose name begins with ``within`` are counted, such as ``transformer_blocks.``.
        """
        infos = (item for c in components for item in self.file(c).infos(c).items())
        return loaded_bytes((info for name, info in infos if name.startswith(within)), self.dtype)

    def text_bytes(self) -> int:
        """Bytes of the text encoder, the text projection and the connectors once they are loaded."""
        parts = (Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS)
        return self.text_encoder_bytes() + self.component_bytes(*parts)

    def lora_report(self, lora: Lora) -> LoraReport:
        """Report which layers of this run's networks ``lora`` changes; only headers are read.

        Raises ValueError if it fits no layer.
        """
        parts = {c: self.file(c).shapes(c) for c in _WITH_LORA}
        report = lora.report_all(parts, self.file(Component.TRANSFORMER).generation)
        report.require_match()
        return report

    def encode(
        self, prompts: Sequence[str], *, loras: tuple[Lora, ...] = (), on_layer: OnLayer | None = None
    ) -> TextFeatures:
        """Return the features of ``prompts``, on the device.

        Gemma is loaded only for prompts that are not cached. ``loras`` may change the text projection.
        ``on_layer`` is called with (layers done, all layers).
        """
        loras = tuple(lora for lora in loras if Component.TEXT_PROJECTION in lora.components)

        def run(unknown: list[str]) -> TextFeatures:
            with self.use_text_encoder(loras) as encoder:
                return encoder.encode(unknown, on_layer=on_layer)

        projection = self.file(Component.TEXT_PROJECTION).path
        # The same prompt has other features with another LoRA, so they are part of the cache's key.
        changes = tuple((lora.path, lora.strength, *lora.settings) for lora in loras)
        features = self._features.encode((self.text_encoder, projection, self.dtype, changes), prompts, run)
        # Cached features are on the CPU.
        return TextFeatures(*(t.to(self.device) for t in (features.video, features.audio, features.mask)))

    def check_text_encoder(self) -> None:
        """Raise ValueError unless the text encoder is there, is complete and belongs to the checkpoint.

        Only headers are read.
        """
        if self.text_encoder is None:
            raise ValueError("no text encoder is named; give the folder or file of a Gemma 3 as text_encoder")
        if self._held_text is None:
            check_text_encoder(self.checkpoints, self.text_encoder)
            check_tokenizer(self.text_encoder)

    @contextmanager
    def use_text_encoder(self, loras: tuple[Lora, ...] = ()) -> Iterator[TextEncoder]:
        """A context that yields Gemma with the checkpoint's text projection.

        ``loras`` are merged into the projection. The network runs on the CPU if it does not fit
        ``max_memory``.
        """
        self.check_text_encoder()
        assert self.text_encoder is not None
        device = torch.device("cpu") if self._text_stays_on_cpu() else self.device
        with self.use(Component.TEXT_PROJECTION, loras, device=device) as projection:
            # The text encoder is held apart from the projection, which alone has LoRAs.
            encoder = self._held_text
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
        self._release()

    def text_size(self) -> TextSize | None:
        """The layer widths of the text encoder, from which its memory is estimated; None if none is named."""
        if self.text_encoder is None:
            return None
        _, infos, _ = find_encoder(self.text_encoder)
        # Quantised layers may be packed along their columns, never along their rows.
        # Peak memory of Gemma is in its feed-forward, whose widths decide it.
        rows = {name: infos[f"layers.0.mlp.{name}.weight"].shape[0] for name in ("gate_proj", "down_proj")}
        config = text_config(self.file(Component.TEXT_CONNECTORS).config)
        return TextSize.of(config, hidden=rows["down_proj"], intermediate=rows["gate_proj"])

    def audio_size(self) -> AudioSize | None:
        """The configurations of audio decoder and vocoder, for memory estimates; None if one is missing."""
        parts = (Component.AUDIO_DECODER, Component.VOCODER)
        if not all(any(part in file.components for file in self.checkpoints) for part in parts):
            return None
        decoder, vocoder = (self.file(part).config for part in parts)
        return AudioSize(decoder=audio_vae_config(decoder), vocoder=vocoder_config(vocoder))

    def _text_stays_on_cpu(self) -> bool:
        """Whether the text encoder runs on the CPU, because it does not fit ``max_memory``."""
        if self.max_memory is None:
            return False
        connectors = self.component_bytes(Component.TEXT_CONNECTORS)
        reading, _ = text_stages(self.text_bytes(), connectors, self.text_size(), self.dtype.itemsize)
        return reading.total > usable(self.max_memory)

    def text_encoder_bytes(self) -> int:
        """Bytes of the text encoder once it is loaded in this run's number format; 0 if none is named."""
        if self.text_encoder is None:
            return 0
        _, infos, _ = find_encoder(self.text_encoder)
        return loaded_bytes(infos.values(), self.dtype)

    def _place(self, network: nn.Module, device: torch.device) -> None:
        """Move an offloaded network back to ``device``; without ``max_memory`` nothing is offloaded."""
        if self.max_memory is not None:
            network.to(device)

    def _offload(self, network: nn.Module, component: Component) -> None:
        if self.max_memory is not None and self._holds(component):
            network.to("cpu")

    def _release(self) -> None:
        # Freed memory stays with PyTorch's allocator, where other processes cannot use it.
        if self.device.type == "cuda" and (self.max_memory is not None or not self.keep_loaded):
            torch.cuda.empty_cache()


def open_video_decoder(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the file of a video decoder; raises ValueError if it holds none."""
    checkpoint = open_checkpoint(path)
    if Component.VIDEO_DECODER not in checkpoint.components:
        held = ", ".join(str(c) for c in Component if c in checkpoint.components)
        raise ValueError(
            f"video_decoder: {path} has no video decoder; it holds {held}. Use a video VAE file, such as "
            "ltx-2.5-video-vae-bf16"
        )
    return checkpoint


def open_loras(files: Sequence[LoraFile]) -> tuple[Lora, ...]:
    """Open LoRA files: read their headers and pair each with its strength. No weights are read."""
    return tuple(_open(file) for file in files)


def warn_of_stacked(loras: Sequence[Lora]) -> None:
    """Log a warning if more than one of ``loras`` is an IC-LoRA: they compete for the same reference."""
    names = [lora.path.name for lora in loras if lora.is_ic_lora and lora.strength]
    # One reference serves all IC-LoRAs of a run, so several of them compete for it.
    if len(names) > 1:
        _log.warning("%s: %s", " and ".join(names), STACKED)


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
