"""Checks from headers, before anything is computed, whether the model files of a run belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from ..config import UpsamplerConfig, upsampler_config
from .checkpoint import Checkpoint
from .detect import Component

_OWN = frozenset({Component.LORA, Component.UPSAMPLER, Component.TEXT_ENCODER})
"""Components that are chosen by themselves, and may state no generation or another one."""
_TRAINED = frozenset({Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION})
"""Components that differ between LTX-2.3 and LTX-2.5."""
_AUTOENCODERS = {None: None, "0.9": "0.9", "2.0": "2.0", "2.3": "2.3", "2.5": "2.3"}
"""Generation -> the first one that has its autoencoders."""


def check_set(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise ValueError, which names both files, if two files of a run do not belong together.

    Files do not belong together if they are of different model generations, see :func:`check_generations`, or
    contain the same component. One file that is named twice is allowed; a LoRA next to other files is not.
    """
    check_generations(checkpoints)
    lora = next((c for c in checkpoints if c.components == {Component.LORA}), None)
    if lora is not None and len(checkpoints) > 1:
        raise ValueError(f"{lora.path} is a LoRA and no part of a model: name it in loras (--lora)")
    holders: dict[Component, Checkpoint] = {}
    for checkpoint in checkpoints:
        for component in sorted(checkpoint.components - {Component.LORA}, key=str):
            other = holders.setdefault(component, checkpoint)
            # The same file may be named twice, for two purposes.
            if other.path.resolve() != checkpoint.path.resolve():
                raise ValueError(
                    f"two files hold the {component}: {other.path} and {checkpoint.path}; "
                    "leave one of them out"
                )


def check_generations(checkpoints: Iterable[Checkpoint]) -> None:
    """Raise ValueError, which names both files, if two files are of different model generations.

    LTX-2.3 and LTX-2.5 share the autoencoders and the vocoder. Transformer, text connectors and text
    projection must be of one release, because they were trained together and with another text encoder. A
    file with only connectors or projection that does not state its version, and whose tensors fit both, is
    accepted with either. Files that contain nothing but a LoRA, an upscaler or a text encoder are not
    compared.
    """
    first: Checkpoint | None = None
    trained: Checkpoint | None = None
    for checkpoint in checkpoints:
        if checkpoint.generation is None or not checkpoint.components - _OWN:
            continue
        first = first or checkpoint
        if _AUTOENCODERS[first.generation] != _AUTOENCODERS[checkpoint.generation]:
            raise _of_two(first, checkpoint)
        if checkpoint.components & _TRAINED and _is_certain(checkpoint):
            trained = trained or checkpoint
            if trained.generation != checkpoint.generation:
                raise _of_two(trained, checkpoint)


def check_sources(sources: Sequence[Checkpoint], *, both_decoders: bool = False) -> None:
    """Raise ValueError if files cannot be joined to one model.

    They cannot if they are of different generations, or if one holds no component that is in none before it,
    as each component is taken from the first file that has it. ``both_decoders`` says that the
    convolutional and the diffusion video decoder are two components, as in a diffusers pipeline.
    """
    check_generations(sources)
    held: set[tuple[Component, bool]] = set()
    for index, source in enumerate(sources):
        parts = {
            (one, both_decoders and one is Component.VIDEO_DECODER and source.has_diffusion_decoder)
            for one in source.components
        }
        if index and parts <= held:
            names = ", ".join(str(component) for component in Component if component in source.components)
            raise ValueError(
                f"{source.path} adds nothing: a file before it has the same parts ({names}); leave it out"
            )
        held |= parts


def _of_two(one: Checkpoint, other: Checkpoint) -> ValueError:
    return ValueError(
        f"these files are of two generations: {_described(one)}, {_described(other)}; use the parts of one "
        "release"
    )


def _is_certain(checkpoint: Checkpoint) -> bool:
    """Whether a file is certainly of 2.3 or of 2.5: by its transformer, or a version in its metadata."""
    stated = str(checkpoint.metadata.get("model_version", ""))
    return Component.TRANSFORMER in checkpoint.components or stated.startswith(("2.3", "2.5"))


def _described(checkpoint: Checkpoint) -> str:
    held = ", ".join(sorted(str(component) for component in checkpoint.components - _OWN))
    return f"{checkpoint.path} is {model_name(checkpoint.generation)} ({held})"


def model_name(generation: str | None) -> str:
    """The model of a generation in words, such as "LTX-2.3", or "LTX-Video" for "0.9"."""
    return "LTX-Video" if generation == "0.9" else f"LTX-{generation}"


def upscaler_kind(config: UpsamplerConfig) -> str:
    """Describe in words what an upscaler enlarges and by how much, such as "spatial x2"."""
    space = f"spatial x{config.spatial_scale:g}" if config.spatial else ""
    return " and ".join(kind for kind in (space, "temporal x2" if config.temporal else "") if kind)


def stage_factor(checkpoint: Checkpoint) -> Fraction:
    """The factor by which an upscaler file enlarges width and height between two sampling stages, such as 2.

    Raises ValueError for an upscaler that changes the length, or makes the video smaller.
    """
    config = upsampler_config(checkpoint.config)
    if config.temporal:
        raise ValueError(
            f"{checkpoint.path} is a {upscaler_kind(config)} upscaler, which changes the frame rate: two "
            "stages need a spatial one, such as ltx-2-spatial-upscaler-x2"
        )
    if config.spatial_scale <= 1:
        raise ValueError(
            f"{checkpoint.path} is a {upscaler_kind(config)} upscaler, which makes the video smaller: two "
            "stages need one that enlarges it, such as ltx-2-spatial-upscaler-x2"
        )
    # The header has a float, and sizes must divide exactly.
    return Fraction(config.spatial_scale).limit_denominator(8)
