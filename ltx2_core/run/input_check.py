"""Checks a request before a network is loaded: reads every input once and looks for every component."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ..conditioning.guides import place_guide
from ..conditioning.inputs import VideoReference
from ..config import TransformerConfig
from ..loading import Component, Lora
from ..media import load_image, read_audio, read_video
from ..media.images import ImageSource
from ..sampling.guidance import Guidance, Pass, check_blocks
from ..sampling.noise import check_noise
from ..shapes import ClipPlan
from ..transformer.tiles import tile_spans
from .components import Components
from .dfr_plan import asked_clip
from .distributed import Processes
from .hdr_inputs import check_hdr, read_image
from .inputs import read_input_audio, reference_every, reference_scale
from .request import Request
from .stages import Stage

MAX_TOKENS = 2**22
"""The most video tokens of one run: four times those of 20 s of 4K at 50 fps."""


def check_run_size(clip: ClipPlan) -> None:
    """Raise ValueError if a run would have more than ``MAX_TOKENS`` (4 million) video tokens."""
    if clip.video_tokens > MAX_TOKENS:
        raise ValueError(
            f"{clip.width}x{clip.height} with {clip.frames} frames are {clip.video_tokens} video tokens, and "
            f"one run samples at most {MAX_TOKENS}: use a smaller or shorter clip, or ltx2 long"
        )


def check_stages(request: Request, stages: tuple[Stage, ...], config: TransformerConfig) -> None:
    """Raise ValueError if the transformer, whose ``config`` this is, cannot sample ``stages``.

    That is if keyframes are to be generated and the checkpoint was not trained for it, if guidance perturbs
    blocks that do not exist, or if the tiles of ``request`` do not fit the size of a stage.
    """
    if any(stage.keyframes for stage in stages) and not config.keyframe_embedding:
        what = "generated_keyframes need" if request.staging.pipeline is None else "the DFR pipeline needs"
        raise ValueError(
            f"{what} a checkpoint that generates keyframes, which LTX-2.5 introduced, and this one does not: "
            "use one of LTX-2.5"
        )
    tiles = request.sampling.tiles
    for stage in stages:
        if Pass.PERTURBED in stage.guidance.passes():
            check_blocks(stage.guidance, config.num_layers)
        if tiles is not None:
            with _named(f"tiles={tiles.columns}x{tiles.rows}"):
                tile_spans(stage.clip.latent_width, tiles.columns, tiles.overlap)
                tile_spans(stage.clip.latent_height, tiles.rows, tiles.overlap)


def check_processes(processes: Processes, config: TransformerConfig, stages: Sequence[Stage] = ()) -> None:
    """Raise ValueError if ``processes`` cannot divide the tokens of ``stages``, or the heads of ``config``.

    The processes that divide the tokens of a forward pass take equally many heads each, and a part of every
    stream.
    """
    parts = processes.token_parts
    if config.heads % parts:
        possible = [str(n) for n in range(1, config.heads + 1) if config.heads % n == 0]
        raise ValueError(
            f"{parts} processes cannot divide the {config.heads} heads of the transformer: let "
            f"{', '.join(possible[:-1])} or {possible[-1]} processes divide the tokens of a clip"
        )
    for stage in stages:
        streams = (stage.sampled.video_tokens, stage.sampled.audio_tokens)
        least = min((tokens for tokens in streams if tokens), default=parts)
        if least < parts:
            raise ValueError(
                f"a stream of the clip has {least} tokens, too few for {parts} processes: make a longer "
                "clip, or use fewer processes"
            )


def check_components(
    networks: Components, request: Request, stages: Sequence[Stage], *, further: bool
) -> None:
    """Raise ValueError if a network that the run needs is in none of the model files.

    ``stages`` are those planned for ``request``. ``further`` says that the call has conditioning items in
    addition to its request, for which the video encoder is needed. The text encoder is checked by
    :meth:`Components.check_text_encoder`.
    """
    inputs = request.inputs
    needed = [*networks.text_parts, Component.TRANSFORMER, Component.VIDEO_DECODER]
    if networks.has_audio:
        needed += [Component.AUDIO_DECODER, Component.VOCODER]
    if len(stages) > 1:
        needed.append(Component.UPSAMPLER)
    # Two stages need the video encoder for its statistics, which the upscaler takes.
    if len(stages) > 1 or inputs.image.source is not None or inputs.images or inputs.references or further:
        needed.append(Component.VIDEO_ENCODER)
    audio = inputs.audio.source is not None or inputs.reference_audio.source is not None
    if audio and networks.has_audio:
        needed.append(Component.AUDIO_ENCODER)
    for component in needed:
        networks.file(component)
    if request.size.auto:
        try:
            networks.file(Component.DURATION_HEAD)
        except ValueError as error:
            raise ValueError(f"seconds=auto needs the duration head: {error}") from None
    networks.check_text_encoder()


def check_silent(request: Request) -> None:
    """Raise ValueError for what only a model with audio does, which LTX-Video is not."""
    voice, guidance = request.inputs.reference_audio, request.sampling.guidance
    asked = {
        "video=False": not request.size.video,
        "reference_audio": voice.source is not None,
        "seconds=auto": request.size.auto,
        "pipeline_kind=dfr": request.staging.pipeline is not None,
        "hdr": request.inputs.hdr is not None,
    }
    named = next((name for name, wrong in asked.items() if wrong), None)
    if named is not None:
        raise ValueError(
            f"{named} needs a checkpoint of LTX-2: LTX-Video generates video alone, without audio. Leave it "
            "out, or name another checkpoint"
        )
    if isinstance(guidance, Guidance) and guidance.video.modality != 1:
        raise ValueError("modality guidance is between video and audio, and LTX-Video has no audio: use 1")


def check_inputs(
    request: Request, stages: tuple[Stage, ...], loras: Sequence[Lora], *, audio: bool = True
) -> None:
    """Read every image, audio and video file that ``request`` names, and check that it can be used.

    ``stages`` are those planned for the request; their sizes are compared with the inputs. ``loras`` decide
    at what scale references are encoded; ``audio`` says whether the model has audio. Raises ValueError or
    FileNotFoundError that names the keyword and the file.
    """
    inputs, clip = request.inputs, asked_clip(stages)
    check_hdr(request)
    if inputs.image.source is not None:
        with _named("image"):
            _check_images(inputs.image.source)
    for image in inputs.images:
        with _named("images"):
            # Decoded and not only opened, because damage appears only then.
            read_image(image.source)
            if image.frame < -clip.frames:
                raise ValueError(f"frame {image.frame} is before the first of {clip.frames} frames")
            place_guide(1, image.frame, clip.latent_frames)
    with _named("images"):
        check_frames([image.frame % clip.frames for image in inputs.images], first=inputs.image.source)
    for reference in inputs.references:
        with _named("references"):
            _check_reference(reference, clip, inputs.hdr)
            reference_every(reference, loras)
            for stage in stages:
                reference_scale(reference, loras, stage.clip)
    if inputs.noise is not None:
        check_noise(inputs.noise, stages[0].clip, video=request.size.video, audio=audio)
    with _named("audio"):
        read_input_audio(request, stages[0])
    for start, end in inputs.audio.regions:
        if start >= clip.seconds:
            raise ValueError(
                f"audio_regions: {start:g}-{end:g} is outside of the clip, which lasts {clip.seconds:g} s: "
                "name seconds of it, or make it longer"
            )
    voice = inputs.reference_audio
    if voice.source is not None and not isinstance(voice.source, tuple):
        with _named("reference_audio"):
            read_audio(voice.source, duration_s=voice.seconds)


def check_frames(frames: Sequence[int], *, first: object) -> None:
    """Raise ValueError if two images are for one frame; ``first`` is the image of frame 0, None for none."""
    taken = list(frames) if first is None else [0, *frames]
    twice = next((frame for index, frame in enumerate(taken) if frame in taken[:index]), None)
    if twice is not None:
        raise ValueError(f"two images are for frame {twice}: leave one out, or give it another frame")


def _check_images(source: ImageSource) -> None:
    # Several frames are a clip that the video begins with, and each of them is an image.
    if isinstance(source, Tensor) and source.ndim == 4:
        for frame in source:
            load_image(frame)
    else:
        read_image(source)


def _check_reference(reference: VideoReference, clip: ClipPlan, hdr: str | None) -> None:
    source, placed = reference.source, reference.place(clip)
    needed = placed.encoded - placed.lead
    if isinstance(source, Tensor):
        if source.ndim != 4 or source.shape[1] != 3:
            raise ValueError(f"frames must be (N, 3, H, W); got {tuple(source.shape)}")
        frames = max(0, len(source) - round(reference.start_s * clip.fps))
    else:
        frames = read_video(source, start_s=reference.start_s, max_frames=needed, hdr=hdr).frame_count
    if frames < needed:
        named = "" if isinstance(source, Tensor) else f" {source}"
        what = "the clip" if needed == clip.frames else "its range"
        raise ValueError(
            f"the reference{named} has {frames} frames and {what} {needed}: use a longer reference or "
            f"a shorter {what.split()[-1]}"
        )


@contextmanager
def _named(keyword: str) -> Iterator[None]:
    """A context that puts ``keyword`` in front of the message of a ValueError or FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{keyword}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{keyword}: {error}") from error
