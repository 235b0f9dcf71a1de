"""Options of single commands: edits, long clips and the memory plan."""

from __future__ import annotations

from collections.abc import Iterator

from .option import MAX_FRAMES, MAX_SECONDS, Option


def edits_options() -> Iterator[Option]:
    """Options of extend, retake and sound (the command that adds audio)."""
    yield Option(
        name="source",
        flags=("--video",),
        kind="path",
        group="source",
        help="The video to edit; for ltx2 long a control video or reference of an IC-LoRA.",
    )
    yield Option(
        name="background",
        flags=("--background",),
        kind="text",
        group="source",
        metavar="COLOUR",
        default="black",
        help="Colour behind transparent pixels of --video, such as white or #00ff00.",
    )
    yield Option(
        name="extend_seconds",
        flags=("--seconds",),
        kind="float",
        group="edit",
        command="extend",
        help="Length to add, in seconds; it becomes the nearest whole number of frames, halves upwards: 0.5 "
        "at 25 fps are 13.",
        range=(0, MAX_SECONDS),
        above=True,
        unit="s",
    )
    yield Option(
        name="extend_frames",
        flags=("--frames",),
        kind="int",
        group="edit",
        command="extend",
        help="Length to add, in frames.",
        range=(1, MAX_FRAMES),
        unit="frames",
    )
    yield Option(
        name="keep_frames",
        flags=("--keep-frames",),
        kind="int",
        group="edit",
        command="extend",
        help="How many of the last frames of the source the new ones are conditioned on, 8k + 1.",
        range=(1, MAX_FRAMES),
        unit="frames",
        default=25,
    )
    for stream in ("video", "audio"):
        yield Option(
            name=f"{stream}_region",
            flags=(f"--{stream}-region",),
            kind="text",
            empty=True,
            group="edit",
            command="retake",
            help=f"Seconds of the {stream} to regenerate, such as '2-4, 5.5-6'.",
            default="",
        )
    yield Option(
        name="rounding",
        flags=("--rounding",),
        kind="choice",
        group="edit",
        command="retake",
        choices=("inside", "cover", "touch"),
        default="cover",
        help="Latent frames that a region takes: those inside it, all that it covers in part, or also those "
        "that it touches.",
    )
    yield Option(
        name="paste",
        flags=("--paste/--no-paste",),
        kind="flag",
        group="edit",
        command="retake",
        default=True,
        help="Put the source's own frames back outside the regions.",
    )
    yield Option(
        name="feather",
        flags=("--feather",),
        kind="int",
        group="edit",
        help="Frames over which new frames fade from and to those of the source, inside the region of a "
        "retake or before the joint of an extension; by default 0 for a retake, 8 for an extension.",
        range=(0, None),
        unit="frames",
    )
    yield Option(
        name="allow_past_end",
        flags=("--allow-past-end",),
        kind="flag",
        group="edit",
        command="retake",
        default=False,
        help="A region may end after the video, which becomes longer.",
    )
    yield Option(
        name="exact_outside",
        flags=("--exact-outside",),
        kind="flag",
        group="edit",
        default=False,
        help="Copy the packets of all GOPs (runs of frames from a keyframe on) without new frames, and "
        "encode only the others; for H.264 of constant frame rate in MP4, MOV or MKV.",
    )
    yield Option(
        name="sound_window_frames",
        flags=("--window-frames",),
        kind="int",
        group="edit",
        command="sound",
        help="Frames, 8k + 1, that are sampled at a time; the audio of a longer video is made in windows, "
        "each of which continues the one before.",
        range=(17, None),
        unit="frames",
        default=257,
    )
    yield Option(
        name="sound_seconds",
        flags=("--seconds",),
        kind="float",
        group="edit",
        command="sound",
        help="Without a video: length of the audio in seconds, saved as WAV.",
        range=(0, MAX_SECONDS),
        above=True,
        unit="s",
    )
    yield Option(
        name="ceiling_db",
        flags=("--ceiling-db",),
        kind="float",
        group="edit",
        command="sound",
        help="Peak of the generated audio, in dB of full scale; louder audio is scaled down as a whole.",
        range=(-200, 0),
        unit="dB",
        default=-1.0,
    )


def windows_options() -> Iterator[Option]:
    """The options of long clips."""
    group, command = "window", "long"
    yield Option(
        name="prompts",
        flags=("--prompts",),
        kind="text",
        group="text",
        command=command,
        help="Required without --from-file. One prompt; parts by time between ; or on lines, such as '0: a; "
        "30: b', with times like 2.5, 0-4, 0:30 or 50%; prompts for windows between |; JSON; or @FILE that "
        "holds one of these.",
    )
    yield Option(
        name="window_frames",
        flags=("--window-frames",),
        kind="int",
        group=group,
        command=command,
        help="Length of a window, 8k + 1 frames.",
        range=(9, MAX_FRAMES),
        unit="frames",
        default=121,
    )
    yield Option(
        name="overlap_frames",
        flags=("--overlap-frames",),
        kind="int",
        group=group,
        command=command,
        help="Frames that two windows share, 8k.",
        range=(8, MAX_FRAMES),
        unit="frames",
        default=24,
    )
    yield Option(
        name="overlap_strength",
        flags=("--overlap-strength",),
        kind="float",
        group=group,
        command=command,
        help="How much of the overlap is preserved in the next window: 1 all of it.",
        range=(0, 1),
        default=1.0,
    )
    yield Option(
        name="adain",
        flags=("--adain",),
        kind="float",
        group=group,
        command=command,
        help="How far colours and contrast of each window return to those of the first; 0 is off.",
        range=(0, 1),
        default=0.0,
    )
    yield Option(
        name="source_strength",
        flags=("--reference",),
        kind="float",
        group=group,
        command=command,
        help="Strength of --video as a reference; 0 is off.",
        range=(0, 1),
        default=1.0,
    )
    yield Option(
        name="denoise",
        flags=("--denoise",),
        kind="float",
        group=group,
        command=command,
        help="Part of the schedule that is sampled: below 1 each window starts from --video.",
        range=(0, 1),
        default=1.0,
        request=True,
    )
    yield Option(
        name="state",
        flags=("--state",),
        kind="path",
        group=group,
        command=command,
        help="Folder for finished windows; the same command continues a stopped clip.",
    )


def plans_options() -> Iterator[Option]:
    """The options of the memory plan."""
    group, command = "model", "plan"
    yield Option(
        name="budgets",
        flags=("--max-memory",),
        kind="text",
        group="execution",
        command=command,
        multiple=True,
        help="Budget such as 12GB, or auto for what the GPU has free; repeat to compare. By default auto "
        "where there is a GPU, else 8, 12, 16, 24, 32 and 80 GB.",
    )
    yield Option(
        name="model",
        flags=("--model",),
        kind="choice",
        group=group,
        command=command,
        choices=("2.0", "2.3"),
        default="2.3",
        help="Released model to plan for, where no --checkpoint is named.",
    )
    yield Option(
        name="stored",
        flags=("--stored",),
        kind="choice",
        group=group,
        command=command,
        choices=("bf16", "fp8"),
        default="bf16",
        help="Number format in which the file of --model stores the blocks.",
    )
    yield Option(
        name="picture",
        flags=("--picture",),
        kind="path",
        group="output",
        command=command,
        help="Draw the plans into this PNG.",
    )
