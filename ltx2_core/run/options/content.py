"""Options of the content of a clip: text, size and length, inputs."""

from __future__ import annotations

from collections.abc import Iterator

from .option import BY_RECIPE, MAX_FRAMES, MAX_SCALE, MAX_SECONDS, MAX_SIDE, Option


def text_options() -> Iterator[Option]:
    """Options of the prompts."""
    group = "text"
    yield Option(
        name="prompt",
        flags=("--prompt",),
        kind="text",
        group=group,
        help="Description of the clip, of its video and its audio.",
        request=True,
    )
    yield Option(
        name="negative_prompt",
        flags=("--negative",),
        kind="text",
        empty=True,
        group=group,
        help="What to avoid; used with --cfg above 1 and with --nag.",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="trigger",
        flags=("--trigger",),
        kind="text",
        group=group,
        help="Trigger word of a LoRA; it replaces [trigger] in the prompt, not in the negative one.",
        request=True,
    )
    yield Option(
        name="from_file",
        flags=("--from-file",),
        kind="path",
        group=group,
        help="Repeat the settings in the tags of this MP4, of an edit and a long clip too; further options "
        "change them. Inputs are found where they were and must be unchanged. LoRAs and model files have to "
        "be named again.",
    )


def size_options() -> Iterator[Option]:
    """The options of size and length."""
    group = "size"
    for name in ("width", "height"):
        yield Option(
            name=name,
            flags=(f"--{name}",),
            kind="int",
            group=group,
            help=f"{name.capitalize()} of the clip; a multiple of 32, of 64 with two stages.",
            range=(1, MAX_SIDE),
            unit="pixels",
            default=BY_RECIPE,
            request=True,
        )
    yield Option(
        name="num_frames",
        flags=("--frames",),
        kind="int",
        group=group,
        help="Length of the clip, 8k + 1 frames.",
        range=(1, MAX_FRAMES),
        unit="frames",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="seconds",
        flags=("--seconds",),
        kind="float",
        group=group,
        help="Length of the clip in seconds, in place of --frames.",
        range=(0, MAX_SECONDS),
        above=True,
        unit="s",
        request=True,
    )
    yield Option(
        name="fps",
        flags=("--fps",),
        kind="float",
        group=group,
        help="Frames per second of the clip.",
        range=(0.1, 1000),
        unit="1/s",
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="snap",
        flags=("--snap",),
        kind="choice",
        group=group,
        help="How a size or length that is not on the latent grid is rounded, or error to refuse it.",
        choices=("floor", "nearest", "ceil", "error"),
        default="nearest",
        request=True,
    )
    yield Option(
        name="stages",
        flags=("--stages",),
        kind="int",
        group=group,
        help="1: at full size. 2: at half size first, then upscaled and refined, which needs --upscaler.",
        range=(1, 2),
        default=BY_RECIPE,
        edit_default=1,
        request=True,
    )


def inputs_options() -> Iterator[Option]:
    """Options of images, control videos and audio that condition the clip."""
    group = "inputs"
    yield Option(
        name="image",
        flags=("--image",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE[@FRAME][:STRENGTH]",
        help="Image that becomes the first frame; with @FRAME one that guides the clip at that frame, -1 is "
        "the last. STRENGTH is how much of it is preserved, 1 all of it. May be repeated.",
        request=True,
    )
    yield Option(
        name="image_strength",
        flags=("--image-strength",),
        kind="float",
        group=group,
        help="How much of the first image is preserved: 1 all of it, 0 nothing.",
        range=(0, 1),
        default=1.0,
        request=True,
    )
    yield Option(
        name="image_crf",
        flags=("--image-crf",),
        kind="int",
        group=group,
        help="H.264 compression of the image before it is encoded, as in the training data; 0 is off.",
        range=(0, 51),
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="images",
        flags=("--keyframe",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE@FRAME[:STRENGTH]",
        help="Image that guides the clip at a frame, as --image with @FRAME does. May be repeated.",
        request=True,
    )
    yield Option(
        name="references",
        flags=("--control",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE[:STRENGTH][,scale=N][,every=N]",
        help="Control or reference video of an IC-LoRA, as long as the clip, N times smaller and every N-th "
        "frame of it; by default as the LoRA was trained. May be repeated.",
        request=True,
    )
    yield Option(
        name="fit",
        flags=("--fit",),
        kind="choice",
        group=group,
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="How images and control videos of another shape are fitted: cut around the centre, with black "
        "borders, or stretched.",
        request=True,
    )
    yield Option(
        name="audio",
        flags=("--audio",),
        kind="path",
        group=group,
        help="Audio file, or video with audio, that becomes the audio of the clip.",
        request=True,
    )
    yield Option(
        name="audio_start_s",
        flags=("--audio-start",),
        kind="float",
        group=group,
        help="Where in --audio the clip begins, in seconds.",
        range=(0, MAX_SECONDS),
        unit="s",
        default=0.0,
        request=True,
    )
    yield Option(
        name="audio_noise_db",
        flags=("--audio-noise-db",),
        kind="float",
        group=group,
        help="Add noise of this loudness, such as -60, to the encoded --audio; the saved audio stays clean.",
        range=(-200, 0),
        unit="dB",
        request=True,
    )
    yield Option(
        name="reference_audio",
        flags=("--reference-audio",),
        kind="path",
        group=group,
        help="Audio, such as a voice, that the generated audio imitates; for LoRAs trained for it.",
        request=True,
    )
    yield Option(
        name="reference_s",
        flags=("--reference-seconds",),
        kind="float",
        group=group,
        help="How many seconds of --reference-audio are used.",
        range=(0, 3600),
        above=True,
        unit="s",
        default=5.0,
        request=True,
    )
    yield Option(
        name="identity",
        flags=("--identity",),
        kind="float",
        group=group,
        help="Guidance scale towards --reference-audio; 0 is off. Costs one more guidance pass a step.",
        range=(0, MAX_SCALE),
        default=3.0,
        request=True,
    )
