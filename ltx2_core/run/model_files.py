"""The model files of a run, known by their headers: which file holds which network, and their identity."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ..config import transformer_config, video_vae_config
from ..loading import Checkpoint, Component, Lora, LoraReport, find_component, open_checkpoint
from ..loading.file_set import check_generations, check_set
from ..loading.folder import text_encoder_folder
from ..loading.text_match import check_text_encoder, text_encoder_files
from ..storage.files import JsonObject, state_of
from ..storage.header import TensorInfo
from ..storage.identity import identity, weights_identity
from ..storage.quantized import check_matmul
from ..text.find import FoundEncoder, check_its_tokenizer, find_text_encoder
from ..transformer.fp8 import Product, fp8_problem, kernel_product
from ..types import Numerics, TimeRule
from .execution import Execution

_log = logging.getLogger(__name__)

_TEXT_PARTS: Final = (Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS)


def _warn_of_other_kernels(checkpoints: Sequence[Checkpoint]) -> None:
    """Log a warning for fp8 files of LTX-Video 0.9.7, whose weights are reported to make noise.

    Nothing in their headers says so, so that only their name tells them.
    """
    for checkpoint in checkpoints:
        name = checkpoint.path.name
        if checkpoint.generation == "0.9" and "0.9.7" in name and "fp8" in name:
            _log.warning("%s is reported to make noise unless it runs on its own kernels: use bf16", name)


class ModelFiles:
    """The model files of a run, and how their networks will compute. Reads headers, never weights.

    ``checkpoints`` is one official file, or several files that each hold some of the components.
    ``text_encoder`` is the folder or the file of a Gemma, None if no text is encoded or a diffusers folder
    contains it. ``execution`` says where and how networks compute, ``numerics`` whether results follow the
    official pipelines or ComfyUI. ``video_decoder`` is a file whose video decoder is used in place of that of
    the checkpoints; None uses theirs.

    The attribute ``fp8_problem`` is text that says why this device cannot compute with ``fp8_blocks``; None
    if it can, or if ``fp8_blocks`` is off.
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
        """Read the headers of ``checkpoints``, ``text_encoder`` and ``video_decoder``.

        Raises ValueError for files that are not of LTX-2 or do not belong together (see ``check_set``), for a
        ``decoder_seed`` with a video decoder that uses no noise, and if the device cannot multiply in fp8,
        NVFP4 or int8 where ``execution`` requires that.
        """
        # The product is checked before any file is opened, because it fails by the device alone.
        kinds = ("fp8_matmul", "nvfp4_matmul", "int8_matmul")
        matmul = {kind: getattr(execution, kind) for kind in kinds}
        device, dtype = execution.device, execution.dtype
        check_matmul(device, **matmul)
        self.checkpoints = tuple(open_checkpoint(path) for path in checkpoints)
        check_set(self.checkpoints)
        _warn_of_other_kernels(self.checkpoints)
        self.video_decoder = None if video_decoder is None else open_video_decoder(video_decoder)
        if self.video_decoder is not None:
            check_generations((*self.checkpoints, self.video_decoder))
        self.decoder_seed, self.decoder_noise = execution.decoder_seed, execution.decoder_noise
        self._check_decoder_noise()
        if self.decoder_noise == "auto":
            self.decoder_noise = "comfy" if numerics.is_comfy else "frame"
        own = (text_encoder_folder(checkpoint.path) for checkpoint in self.checkpoints)
        # A diffusers folder has its text encoder next to the other components; one that is named takes
        # precedence.
        included = next((folder for folder in own if folder is not None), None)
        # A folder is checked only by a run that encodes text, because decoding needs no Gemma.
        self.text_encoder = included if text_encoder is None else Path(text_encoder)
        # A server plans and checks each request, and the header of Gemma has a thousand entries.
        self._found_encoder: tuple[object, FoundEncoder] | None = None
        self._checked_encoder: object = None
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
        self._attention = execution.attention
        self.fp8_problem = fp8_problem(device, dtype) if execution.fp8_blocks else None
        self.fp8_product: Product | None = None
        if execution.fp8_blocks and self.fp8_problem is None:
            self.fp8_product = kernel_product
        elif execution.fp8_blocks:
            _log.warning("blocks are not held in fp8: %s", self.fp8_problem)

    @property
    def has_audio(self) -> bool:
        """Whether the model generates audio; LTX-Video does not."""
        transformers = (c for c in self.checkpoints if Component.TRANSFORMER in c.components)
        return all(transformer_config(file.config).has_audio for file in transformers)

    @property
    def times(self) -> TimeRule:
        """How the transformer of these files counts time."""
        config = transformer_config(self.file(Component.TRANSFORMER).config)
        return TimeRule(causal=config.causal_time, reciprocal=not config.has_audio)

    @property
    def text_parts(self) -> tuple[Component, ...]:
        """The networks between text encoder and transformer; none in LTX-Video, which reads T5 itself."""
        return _TEXT_PARTS if self.has_audio else ()

    @property
    def decoder_settings(self) -> dict[str, str | int]:
        """Seed and kind of the noise of a diffusion decoder, as JSON values; none for other decoders."""
        try:
            file = self.file(Component.VIDEO_DECODER)
        # A run of audio alone needs none.
        except ValueError:
            return {}
        if not self._decodes_with_noise(file):
            return {}
        return {"decoder_seed": self.decoder_seed, "decoder_noise": self.decoder_noise}

    def _check_decoder_noise(self) -> None:
        """Raise ValueError for settings of noise that the video decoder does not use."""
        named = "" if self.decoder_noise == "auto" else f"decoder_noise={self.decoder_noise}"
        if self.decoder_seed:
            if self.decoder_noise == "official":
                raise ValueError(
                    f"decoder_seed={self.decoder_seed} has no effect with decoder_noise=official, which goes "
                    "on with the noise of the run: leave one of them out"
                )
            named = f"decoder_seed={self.decoder_seed}"
        if not named:
            return
        file = self.file(Component.VIDEO_DECODER)
        if not self._decodes_with_noise(file):
            raise ValueError(
                f"{named} is for the diffusion decoder of LTX-2.5 and the decoders of LTX-Video; the video "
                f"decoder of {file.path} uses no noise: leave it out, or name another in video_decoder"
            )

    def _decodes_with_noise(self, file: Checkpoint) -> bool:
        return video_vae_config(file.config).uses_noise

    def file(self, component: Component) -> Checkpoint:
        """The file that ``component`` is loaded from. Raises ValueError if none of the files holds it."""
        if component is Component.VIDEO_DECODER and self.video_decoder is not None:
            return self.video_decoder
        return find_component(self.checkpoints, component)

    def identity(self) -> JsonObject:
        """JSON values that identify the networks of this run: digests of their files, and how they compute.

        That is number format, numerics, products in fp8, NVFP4 or int8, and attention that rounds. LoRAs are
        not among the values. ``storage.identity`` describes what a digest covers.
        """
        return {
            "files": self.digests(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "numerics": self.numerics.value,
            # Left out where it is off, so that latents of earlier versions are still those of this run.
            **{kind: on for kind, on in self._matmul.items() if on or kind != "int8_matmul"},
            "fp8_blocks": self.fp8_product is not None,
            # Of the backends only this one rounds what it multiplies.
            **({"attention": "sage"} if self._attention == "sage" else {}),
        }

    def digests(self) -> dict[str, str]:
        """Return a dict: name of a component (or "text encoder") -> digest of the files that hold it."""
        return {name: identity(info.path for info in infos.values()) for name, infos in self._infos().items()}

    def weight_digests(self) -> dict[str, str]:
        """Return a dict: name of a component (or "text encoder") -> digest of its own weights.

        Unlike :meth:`digests` it does not change with other parts of the same files, such as the number
        format of the transformer.
        """
        return {name: weights_identity(infos) for name, infos in self._infos().items()}

    def _infos(self) -> dict[str, Mapping[str, TensorInfo]]:
        """The header entries of each component that the files hold, and of the "text encoder"."""
        found: dict[str, Mapping[str, TensorInfo]] = {}
        for component in Component:
            file = next((f for f in self.checkpoints if component in f.components), None)
            if component is Component.VIDEO_DECODER:
                file = self.video_decoder or file
            if file is not None:
                found[str(component)] = file.infos(component)
        if self.text_encoder is not None:
            _, infos, _ = self.found_text_encoder(self.text_encoder)
            found["text encoder"] = infos
        return found

    def lora_report(self, lora: Lora) -> LoraReport:
        """Report which layers of this run's networks ``lora`` changes; only headers are read.

        Raises ValueError if the LoRA fits no layer.
        """
        parts = {c: self.file(c).shapes(c) for c in (*self.text_parts, Component.TRANSFORMER)}
        report = lora.report_all(parts, self.file(Component.TRANSFORMER).generation)
        report.require_match()
        return report

    def check_text_encoder(self) -> None:
        """Raise ValueError unless the text encoder is there, is complete and belongs to the checkpoint.

        Only headers are read, and again only after a file of it has changed.
        """
        if self.text_encoder is None:
            raise ValueError(
                f"no text encoder is named: text_encoder must be {text_encoder_files(self.checkpoints)}"
            )
        state = state_of(self.text_encoder)
        changed = state != self._checked_encoder
        if changed:
            check_text_encoder(self.checkpoints, self.text_encoder)
        # The tokenizer of a T5 may lie next to its file, of which the state says nothing.
        if changed or self.found_text_encoder(self.text_encoder)[0].get("model_type") == "t5":
            check_its_tokenizer(self.text_encoder)
        self._checked_encoder = state

    def found_text_encoder(self, path: Path) -> FoundEncoder:
        """What :func:`find_text_encoder` finds at ``path``, which is read again only after a change."""
        state = state_of(path)
        if self._found_encoder is None or self._found_encoder[0] != state:
            self._found_encoder = state, find_text_encoder(path)
        return self._found_encoder[1]


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
