"""Converts the options of a call to an execution, a pipeline, an output and the fields of a request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import click
import torch

from ..loading import LoraSpec
from ..loading.lora import BY_RECIPE
from ..media import Destination, Encoding
from ..media.destination import STDOUT
from ..media.encoding import check_encoding
from ..media.image_writer import check_still
from ..media.save import check_destination
from ..media.writer import check_clip
from ..memory import parse_budget
from ..run.dfr_plan import DfrFiles
from ..run.distributed import Processes
from ..run.execution import Execution
from ..run.flat_options import RequestFields
from ..run.options import BY_NAME
from ..run.pipeline import LTX2Pipeline
from ..sampling.caching import StepCache
from ..sampling.schedules import parse_sigmas
from ..shapes import ClipPlan, Snap
from ..tiny import embedded_set
from ..transformer.tiles import Tiles
from ..types import Numerics
from .image_options import image_fields, parse_control
from .options import Chosen

AUDIO_OUTPUT = "ltx2.wav"
_LONGEST_TILES = 7
"""Most characters of a value of --tiles, those of the largest grid "999x999"."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_EXECUTION = (
    *(
        "attention",
        "passes_per_call",
        "decoder_seed",
        "decoder_noise",
        "fused",
        "keep_text_keys",
        "cuda_graphs",
    ),
    *("fp8_blocks", "fp8_matmul", "nvfp4_matmul", "int8_matmul"),
)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the result of a command is written, how it is encoded, and whether progress is printed.

    ``quiet`` prints no progress. ``resume`` says that saved latents of an earlier run are decoded.
    ``container`` is the kind of file for stdout; None is the default, MP4.
    """

    path: Path
    quiet: bool
    resume: bool
    named: bool
    """Whether the path was written on the command line."""
    own_folder: bool = False
    """Whether the path is a folder of frames, which the slash at its end says."""
    container: str | None = None
    encoding: Encoding = field(default_factory=Encoding)

    @classmethod
    def of(cls, chosen: Chosen, *, audio_alone: bool = False) -> Output:
        """Make the output from the options of a call.

        ``audio_alone`` is for runs without video: the default file is then a WAV file.
        """
        named = "output" in chosen.explicit
        text = chosen["output"] if named or not audio_alone else AUDIO_OUTPUT
        container = chosen["container"]
        if text == STDOUT and audio_alone and container is None:
            # WAV can be streamed, and the default kind for stdout, MP4, is for video.
            container = "wav"
        output = cls(
            path=Path(text),
            quiet=chosen["quiet"],
            resume=chosen["resume"],
            named=named,
            container=container,
            encoding=Encoding(**{name: chosen[name] for name in Encoding.__dataclass_fields__}),
        )
        return output.to(text)

    def to(self, text: str) -> Output:
        """Return a copy of this output with the path ``text``.

        A slash at its end means a folder of frames.
        """
        return replace(self, path=Path(text), own_folder=text.endswith(("/", os.sep)))

    @property
    def text(self) -> str:
        """The path as the user wrote it, with the slash at the end that means a folder."""
        return f"{self.path}{os.sep if self.own_folder else ''}"

    @property
    def destination(self) -> Destination:
        """The path together with its kind of file. Raises ValueError if the name does not tell the kind."""
        return Destination.of(self.text, self.container, hdr=self.encoding.hdr is not None)

    def of_space(self, hdr: str | None) -> Output:
        """Return a copy whose file is encoded for frames of the HDR colour space ``hdr``; None is SDR.

        Other fields, such as path, codec and quality, are unchanged. Nothing is checked or written.
        """
        return replace(self, encoding=replace(self.encoding, hdr=hdr))

    @property
    def printed(self) -> str | None:
        """The absolute path, to be printed on stdout; None if the clip itself is written to stdout."""
        destination = self.destination
        return None if destination.is_stdout else str(destination.shown.resolve())

    def check(self, *, audio_alone: bool = False) -> None:
        """Check that the path can be written with the chosen encoding.

        Prints on stderr what the file will not contain, such as audio. ``audio_alone`` is for runs without
        video. Raises what :meth:`Destination.check` and :func:`check_encoding` raise.
        """
        destination = self.destination
        if audio_alone:
            destination.check_audio()
        check_encoding(destination.format, self.encoding, audio_alone=audio_alone)
        check_destination(destination, self.encoding)
        for note in destination.notes(frames=not audio_alone):
            click.echo(note, err=True)

    def check_clip(self, clip: ClipPlan) -> None:
        """Raise ValueError if the chosen encoder does not support the size or frame rate of ``clip``.

        A single image is refused for a clip of several frames.
        """
        check_still(self.destination, clip.frames)
        self.check_encoder(clip.width, clip.height, clip.fps)

    def check_encoder(self, width: int, height: int, fps: float) -> None:
        """Raise ValueError if the chosen encoder does not support this size in pixels or this frame rate."""
        check_clip(self.destination, self.encoding, width=width, height=height, fps=fps)


def execution_of(
    chosen: Chosen,
    processes: Processes | None = None,
    *,
    device: str | None = None,
    recorded: Mapping[str, Any] = MappingProxyType({}),
) -> Execution:
    """Make the execution (device, number format, memory, kernels) from the options of a call.

    ``device`` replaces the option of this name if it is not None. ``recorded`` are the settings of a clip
    that is repeated: its number format and the noise of its decoder stand in for options that were left out.
    ``processes`` is the place of this process among those that share the work; None is for one process.
    Raises ValueError that names the flag.
    """
    dtype = chosen["dtype"] or recorded.get("dtype")
    with naming("--device"):
        place = Execution.on(device or chosen["device"], None if dtype is None else DTYPES.get(dtype))
    budget = chosen["max_memory"]
    with naming("--max-memory"):
        max_memory = None if budget is None else parse_budget(budget, place.device)
    options = {name: chosen[name] for name in _EXECUTION}
    for name in ("decoder_seed", "decoder_noise"):
        if name in recorded and name not in chosen.explicit:
            options[name] = recorded[name]
    return Execution(
        device=place.device,
        dtype=place.dtype,
        max_memory=max_memory,
        processes=Processes() if processes is None else processes,
        **options,
    )


def open_pipeline(
    chosen: Chosen, execution: Execution | None = None, *, numerics: Numerics | None = None
) -> LTX2Pipeline:
    """Open a pipeline of the model files that the user named, or without a checkpoint of the tiny model set.

    ``execution`` and ``numerics`` replace those that the options describe if they are not None.
    """
    checkpoints: Sequence[Path] = chosen["checkpoints"]
    text_encoder, upscaler = chosen["text_encoder"], chosen["upscaler"]
    # Without files the embedded tiny model runs, so that the command can be tried at once.
    if not checkpoints:
        tiny = embedded_set()
        checkpoints = (tiny.checkpoint,)
        text_encoder, upscaler = text_encoder or tiny.text_encoder, upscaler or tiny.upsampler
    detail = loras_of(chosen, "detail_lora")
    return LTX2Pipeline(
        *checkpoints,
        text_encoder=text_encoder,
        upscaler=upscaler,
        loras=loras_of(chosen, "loras"),
        stage2_loras=loras_of(chosen, "stage2_loras"),
        numerics=Numerics(chosen["numerics"]) if numerics is None else numerics,
        execution=execution_of(chosen) if execution is None else execution,
        video_decoder=chosen["video_decoder"],
        dfr=DfrFiles(
            detail_lora=detail[0] if detail else None, temporal_upscaler=chosen["temporal_upscaler"]
        ),
        enhancer=chosen["enhancer"],
    )


def loras_of(chosen: Chosen, name: str) -> tuple[LoraSpec, ...]:
    """Parse the LoRA files and strengths in the option called ``name``, such as "stage2_loras"."""
    texts = chosen[name] or ()
    with naming(BY_NAME[name].flag):
        return tuple(parse_lora(text) for text in ((texts,) if isinstance(texts, str) else texts))


@contextmanager
def naming(flag: str) -> Iterator[None]:
    """A context that puts ``flag`` in front of a ValueError's message, unless the message contains it."""
    try:
        yield
    except ValueError as error:
        if flag in str(error):
            raise
        raise ValueError(f"{flag}: {error}") from error


def parse_lora(text: str) -> LoraSpec:
    """Parse ``FILE[:STRENGTH[:AUDIO_STRENGTH]]`` to the path of a LoRA with its strengths.

    STRENGTH is 1 by default; AUDIO_STRENGTH is for the audio layers, by default STRENGTH. A colon with no
    number after it is part of the file's name, except that FILE:recipe stands for the strength of a distilled
    LoRA in the recipe (default settings) of the checkpoint.
    """
    named, _, last = text.rpartition(":")
    if last == BY_RECIPE and named:
        return LoraSpec(path=named, strength="recipe")
    path, strengths = split_numbers(text, 2)
    if len(strengths) == 2:
        return LoraSpec(path=path, strength=strengths[0], audio_strength=strengths[1])
    return LoraSpec(path=path, strength=strengths[0] if strengths else 1.0)


def split_numbers(text: str, most: int) -> tuple[str, list[float]]:
    """Split at most ``most`` numbers from the end of a text: ``FILE:1:0.5`` -> ("FILE", [1.0, 0.5])."""
    path, numbers = text, list[float]()
    while len(numbers) < most:
        # The colon of a Windows drive belongs to the name, since no number follows it.
        rest, _, last = path.rpartition(":")
        try:
            number = float(last)
        except ValueError:
            break
        # A name that is a number, such as "1.5", remains a name.
        if not rest:
            break
        path = rest
        numbers.insert(0, number)
    return path, numbers


def parse_cache(text: str) -> StepCache:
    """Parse ``KIND`` or ``KIND:THRESHOLD``, the value of --cache, to a step cache.

    KIND is "first_block" or "timestep" (see :class:`StepCache`), and THRESHOLD, 0.1 by default, is the
    relative change up to which results are reused. Raises ValueError for other text.
    """
    kind, _, threshold = text.partition(":")
    try:
        options = {"threshold": float(threshold)} if threshold else {}
    except ValueError:
        raise ValueError(f"--cache {text}: {threshold!r} is no number; try first_block:0.1") from None
    return StepCache(kind=kind, **options)  # type: ignore[arg-type]


def parse_tiles(text: str) -> Tiles | None:
    """Parse the value of --tiles: "2x1" is two columns in one row; None for "1x1".

    Raises ValueError for other text.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or len(text) > _LONGEST_TILES:
        raise ValueError(f"--tiles {text:.40} must be columns x rows, such as 2x1")
    tiles = Tiles(columns=int(match[1]), rows=int(match[2]))
    # A single tile is the plain computation, which needs no blending.
    return None if tiles.columns == tiles.rows == 1 else tiles


def parse_keyframes(text: str) -> int | tuple[int, ...]:
    """Parse the value of --generated-keyframes: "4" is a number of keyframes, "24,48,-1" are frames.

    A single frame has a comma after it. Raises ValueError for other text.
    """
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or (len(numbers) > 1 and text.strip().endswith(",")):
        raise ValueError(
            f"--generated-keyframes {text:.40} must be a number of keyframes, such as 4, or frames, such as "
            "24,48,-1 (one frame alone as 24,)"
        )
    return numbers if "," in text else numbers[0]


_READERS: Mapping[str, Any] = {
    "generated_keyframes": parse_keyframes,
    "snap": Snap,
    "sigmas": lambda text: parse_sigmas(text).tolist(),
    "stage2_sigmas": lambda text: parse_sigmas(text).tolist(),
    "cache": parse_cache,
    "tiles": parse_tiles,
    "references": lambda texts: tuple(map(parse_control, texts)),
}


def request_fields(chosen: Chosen, pipeline: LTX2Pipeline) -> RequestFields:
    """Convert the options that the user wrote to keywords of :class:`Request`.

    If some guidance options are written, the others are filled in from the recipe of ``pipeline``. Raises
    ValueError for values that cannot be parsed and for options that contradict each other.
    """
    from ..sampling.presets import PRESETS
    from .guidance import guidance_fields

    explicit = dict(chosen.explicit)
    preset = PRESETS.get(explicit.get("preset", ""))
    fields: dict[str, object] = {**guidance_fields(explicit, pipeline), **image_fields(explicit)}
    of_preset = None if preset is None else preset.image_strength
    if of_preset is not None and "image" in fields and "image_strength" not in {*fields, *explicit}:
        fields["image_strength"] = of_preset
    for name, value in explicit.items():
        if BY_NAME[name].request and name not in fields:
            with naming(BY_NAME[name].flag):
                fields[name] = _READERS[name](value) if name in _READERS else value
    return cast(RequestFields, fields)
