"""Writes a diffusers folder: a configuration and a file of weights for each of its models."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from ..config import (
    audio_vae_config,
    text_config,
    transformer_config,
    upsampler_config,
    video_vae_config,
    vocoder_config,
)
from ..storage.quantized import QUANTISED_DTYPES
from ..storage.writing import Entry, as_bytes, write_safetensors
from ..text.folder import class_of, find_tokenizer
from . import diffusers_out as out
from . import diffusion_out, diffusion_vae
from .checkpoint import Checkpoint, open_checkpoint
from .convert import TensorReader, check_convertible
from .detect import Component
from .diffusers_out import Json
from .folder import DIFFUSION_DECODER
from .sections import joined_config


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model of a diffusers folder: its subfolder, the components in it, and how they are translated.

    From the configuration of a single file ``class_name`` makes the name of the model's class in the Python
    package ``library``, and ``config``, which gets the shapes of its tensors too, the ``config.json``. From
    that ``rules`` makes the rules that rename its tensors. ``read`` parses the configuration of a single
    file; it is used to check that the saved part describes the same network. ``diffusion`` says that a video
    decoder in this part is the diffusion decoder.
    """

    folder: str
    components: tuple[Component, ...]
    class_name: Callable[[Json], str]
    config: Callable[[Json, out.Shapes], Json]
    rules: Callable[[Json], Any]
    read: Callable[[Any], Any]
    library: str = "diffusers"
    diffusion: bool = False


PARTS: Final = (
    Part(
        folder="transformer",
        components=(Component.TRANSFORMER,),
        class_name=lambda _: "LTX2VideoTransformer3DModel",
        config=out.transformer_out,
        rules=lambda _: out.TRANSFORMER_RULES,
        read=transformer_config,
    ),
    Part(
        folder="connectors",
        components=(Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION),
        class_name=lambda _: "LTX2TextConnectors",
        config=out.connectors_out,
        rules=lambda _: out.CONNECTOR_RULES,
        read=text_config,
        library="ltx2",
    ),
    Part(
        folder="vae",
        components=(Component.VIDEO_ENCODER, Component.VIDEO_DECODER),
        class_name=lambda _: "AutoencoderKLLTX2Video",
        config=out.video_vae_out,
        rules=lambda written: out.video_vae_rules(len(written["block_out_channels"])),
        read=video_vae_config,
    ),
    Part(
        folder=DIFFUSION_DECODER,
        components=(Component.VIDEO_DECODER,),
        class_name=lambda _: "LTX2VideoDiffusionDecoderModel",
        config=diffusion_out.decoder_out,
        rules=lambda _: diffusion_out.RULES,
        read=diffusion_out.read_decoder,
        diffusion=True,
    ),
    Part(
        folder="audio_vae",
        components=(Component.AUDIO_ENCODER, Component.AUDIO_DECODER),
        class_name=lambda _: "AutoencoderKLLTX2Audio",
        config=out.audio_vae_out,
        rules=lambda _: out.AUDIO_VAE_RULES,
        read=audio_vae_config,
    ),
    Part(
        folder="vocoder",
        components=(Component.VOCODER,),
        class_name=lambda config: "LTX2VocoderWithBWE" if "bwe" in config["vocoder"] else "LTX2Vocoder",
        config=out.vocoder_out,
        rules=lambda _: out.VOCODER_RULES,
        read=vocoder_config,
        library="ltx2",
    ),
    Part(
        folder="latent_upsampler",
        components=(Component.UPSAMPLER,),
        class_name=lambda _: "LTX2LatentUpsamplerModel",
        config=out.upsampler_out,
        rules=lambda _: (),
        read=upsampler_config,
        library="ltx2",
    ),
)

WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
SCHEDULER: Final[Json] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
    "time_shift_type": "exponential",
    "invert_sigmas": False,
}
"""The schedule of diffusers: shifted by the tokens of the clip."""


def save_diffusers(
    folder: Path, sources: Sequence[Checkpoint], text_encoder: Path | None = None
) -> dict[str, tuple[Component, ...]]:
    """Write ``sources`` as a diffusers pipeline to ``folder``, then read it back and compare.

    Tensors are copied bit for bit. Each component is taken from the first source that has it. The folder
    ``text_encoder`` is copied with its tokenizer if it is not None. ``folder`` must not exist, or be empty.
    Returns the components in each subfolder.

    Raises ValueError for a ``folder`` with something in it, for quantised weights, which diffusers does not
    read, for a configuration that diffusers cannot express, and for half of a model, such as a video VAE
    without its encoder.
    """
    check_convertible(sources)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: name a new one")
    if text_encoder is not None and not text_encoder.is_dir():
        raise ValueError(
            f"{text_encoder} is no folder: a diffusers pipeline takes the Hugging Face folder of Gemma"
        )
    chosen = {part: found for part in PARTS if (found := _sources(part, sources))}
    if not chosen:
        raise ValueError("none of the sources contains a part of a diffusers pipeline")
    planned = {part: _planned(part, found) for part, found in chosen.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Within the parent, since a rename is atomic only within one file system.
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(temporary, planned, chosen, text_encoder)
        if folder.exists():
            folder.rmdir()
        # mkdtemp makes folders that only their user may read.
        temporary.chmod(0o755)
        temporary.rename(folder)
    # Ctrl+C, which is no Exception, must not leave tens of gigabytes behind either.
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return {part.folder: part.components for part in planned}


def _write(
    folder: Path,
    planned: Mapping[Part, tuple[Json, dict[str, Entry]]],
    chosen: Mapping[Part, dict[Component, Checkpoint]],
    text_encoder: Path | None,
) -> None:
    """Write every part to its subfolder and check it, then write scheduler, text encoder and index.

    ``planned`` has the ``config.json`` and the tensors of each part, ``chosen`` the file from which each of
    its components is taken. ``text_encoder`` is a folder to copy; None for none.
    """
    index: Json = {"_class_name": "LTX2Pipeline", "_diffusers_version": "0.37.0"}
    for part, (config, entries) in planned.items():
        target = folder / part.folder
        target.mkdir(parents=True)
        _write_json(target / "config.json", config)
        write_safetensors(target / WEIGHTS, entries, {"format": "pt"})
        # In diffusers the upsampler and the diffusion decoder belong to pipelines of their own.
        if part.folder not in ("latent_upsampler", DIFFUSION_DECODER):
            index[part.folder] = [part.library, config["_class_name"]]
        _verify(part, target, chosen[part])
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index["scheduler"] = ["diffusers", SCHEDULER["_class_name"]]
    if text_encoder is not None:
        _copy_text_encoder(text_encoder, folder)
        index["text_encoder"] = ["transformers", class_of(text_encoder)]
        index["tokenizer"] = ["transformers", "GemmaTokenizerFast"]
    # Last, since it makes a pipeline of the folder.
    _write_json(folder / "model_index.json", index)


def _sources(part: Part, sources: Sequence[Checkpoint]) -> dict[Component, Checkpoint]:
    """The file from which each component of a part is read; empty if no source has any of them.

    The first of ``sources`` that has a component is taken. Raises ValueError if the sources have only some of
    the components.
    """
    found = {
        component: source
        for component in part.components
        # Reversed, so that of several sources with a component the first one is set last.
        for source in reversed(sources)
        if component in source.components and _is_of(part, component, source)
    }
    missing = [str(component) for component in part.components if component not in found]
    if found and missing:
        kind = "convolutional " if any(source.has_diffusion_decoder for source in sources) else ""
        raise ValueError(
            f"a diffusers folder {part.folder} also holds the {kind}{', '.join(missing)}: add its file"
        )
    return found


def _is_of(part: Part, component: Component, source: Checkpoint) -> bool:
    """Whether ``component`` of the file ``source`` is of the kind that ``part`` holds.

    Only video decoders are of two kinds, convolutional and diffusion; diffusers has a folder for each.
    """
    return component is not Component.VIDEO_DECODER or source.has_diffusion_decoder == part.diffusion


def _config(found: Mapping[Component, Checkpoint]) -> Json:
    """The joined configuration of the files in ``found``, the file of each component."""
    return joined_config([(file.config, [component]) for component, file in found.items()])


def _planned(part: Part, found: dict[Component, Checkpoint]) -> tuple[Json, dict[str, Entry]]:
    """The ``config.json`` of a part, and its tensors to write by their names in diffusers.

    ``found`` has the file of each component. Raises ValueError for quantised weights.
    """
    config = _config(found)
    last = part.components[-1]
    written = {"_class_name": part.class_name(config), "_diffusers_version": "0.37.0"}
    written |= part.config(config, found[last].shapes(last))
    rules, entries, read = part.rules(written), dict[str, Entry](), TensorReader()
    for component, file in found.items():
        for own, info in file.infos(component).items():
            if info.dtype in QUANTISED_DTYPES or own.endswith((".comfy_quant", ".weight_scale")):
                raise ValueError(
                    f"{file.path} holds quantised weights ({own} is {info.dtype}), which a diffusers folder "
                    "does not take: use the file in bf16"
                )
            if not part.diffusion:
                entries[out.renamed(own, rules)] = Entry(info.dtype, info.shape, partial(read, info))
        if part.diffusion:
            made = diffusion_out.parts(file.infos(component))
            entries |= {out.renamed(own, rules): entry for own, entry in made.items()}
    return written, dict(sorted(entries.items()))


def _verify(part: Part, target: Path, found: dict[Component, Checkpoint]) -> None:
    """Read a part back from the folder ``target``; raise ValueError unless it equals what was written.

    ``found`` has the file from which each component was taken.
    """
    written, read = open_checkpoint(target), TensorReader()
    if part.read(written.config) != part.read(_config(found)):
        names = ", ".join(sorted({str(source.path) for source in found.values()}))
        raise ValueError(f"the configuration of {names} is none that diffusers has for a {part.folder}")
    for component, source in found.items():
        one, other = (_tensors(part, file, component, read) for file in (source, written))
        if {own: entry.shape for own, entry in one.items()} != {n: e.shape for n, e in other.items()}:
            raise ValueError(f"the {component} of {source.path} has tensors that diffusers does not name")
        for own, entry in one.items():
            if not torch.equal(as_bytes(entry.make()), as_bytes(other[own].make())):
                raise ValueError(f"{own} read back from {target} differs; the disk may be damaged")
        written.check(component)


def _tensors(part: Part, file: Checkpoint, component: Component, read: TensorReader) -> dict[str, Entry]:
    """The tensors of ``component`` in ``file`` as the network has them, by their official names.

    Empty if the file does not have the component. ``read`` reads the tensor of a header entry.
    """
    if component not in file.components:
        return {}
    infos = file.infos(component)
    if part.diffusion:
        return {own: Entry(*entry) for own, entry in diffusion_vae.entries(infos).items()}
    return {own: Entry(info.dtype, info.shape, partial(read, info)) for own, info in infos.items()}


def _copy_text_encoder(source: Path, folder: Path) -> None:
    tokenizer = find_tokenizer(source)
    shutil.copytree(source, folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    for path in sorted(tokenizer.parent.iterdir()):
        # Only files of the tokenizer, because its folder may also hold the weights.
        if path.is_file() and path.suffix in (".json", ".model", ".jinja") and "token" in path.name:
            shutil.copy2(path, folder / "tokenizer" / path.name)


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
