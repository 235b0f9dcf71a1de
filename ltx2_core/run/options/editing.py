"""Declares the options of the commands that edit a video, of ``ltx2 long`` and of ``ltx2 plan``."""

from __future__ import annotations

from collections.abc import Iterator

from .option import MAX_FRAMES, MAX_SECONDS, Option


def edits_options() -> Iterator[Option]:
    """Yield the options of the commands that edit a video, such as extend, retake and sound."""
    yield Option(
        name="source",
        flags=("--video",),
        kind="path",
        group="source",
        help="The video file to edit. ltx2 retake also takes a folder of EXR images, with --hdr and --fps.",
        help_of=(
            (
                "long",
                "Control video or reference video for an IC-LoRA; with --denoise below 1 also the clip that "
                "is sampled again.",
            ),
            ("interpolate", "The video file whose frame rate is doubled."),
        ),
    )
    yield Option(
        name="source_fps",
        flags=("--fps",),
        kind="float",
        group="source",
        command="retake",
        help="Frames per second of --video if that is a folder of EXR images, whose files state no frame "
        "rate.",
        range=(0.1, 1000),
        unit="1/s",
    )
    yield Option(
        name="high_quality",
        flags=("--high-quality",),
        kind="flag",
        group="source",
        command="hdr",
        help="Generate a frame more between every two and leave it out of the result: twice the time, and "
        "less flicker.",
        default=False,
    )
    yield Option(
        name="whole_stage2",
        flags=("--whole-stage2",),
        kind="flag",
        group="source",
        command="hdr",
        help="Sample the second stage at once. By default it is sampled in 2 x 2 x 2 tiles that blend, as in "
        "the official pipeline, which takes less memory.",
        default=False,
    )
    yield Option(
        name="extend_seconds",
        flags=("--seconds",),
        kind="float",
        group="edit",
        command="extend",
        help="Seconds to add to the video, in place of --frames. They are rounded to whole frames, halves "
        "upwards: 0.5 at 25 fps adds 13 frames.",
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
        help="Number of frames to add to the video.",
        range=(1, MAX_FRAMES),
        unit="frames",
    )
    yield Option(
        name="keep_frames",
        flags=("--keep-frames",),
        kind="int",
        group="edit",
        command="extend",
        help="How many of the last frames of the source the new frames continue from, 8k + 1 (such as 25). "
        "More frames preserve motion and voices of the source better. 25 by default, or as many as a shorter "
        "source has.",
        range=(1, MAX_FRAMES),
        unit="frames",
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
        help="How a region is rounded to latent frames (8 frames each): inside takes those that lie entirely "
        "in the region, cover also those that it covers in part, touch also those that it only touches at a "
        "border.",
    )
    yield Option(
        name="paste",
        flags=("--paste/--no-paste",),
        kind="flag",
        group="edit",
        command="retake",
        default=True,
        help="Outside the regions, save the source's own frames, which is the default. With --no-paste all "
        "frames come from the video decoder, which changes them slightly.",
    )
    yield Option(
        name="feather",
        flags=("--feather",),
        kind="int",
        group="edit",
        help="Frames of a linear fade between frames of the source and new ones. With ltx2 retake it lies "
        "inside each region, at both ends (0 by default: a cut); with ltx2 extend it lies before the first "
        "new frame (8 by default).",
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
        help="Allow a region to end after the end of the video; the result is then longer than the source.",
    )
    yield Option(
        name="exact_outside",
        flags=("--exact-outside",),
        kind="flag",
        group="edit",
        default=False,
        help="Encode only the GOPs (runs of frames that start with a keyframe) that contain new frames, and "
        "copy all others from the source file unchanged. It needs H.264 of constant frame rate in MP4, MOV "
        "or MKV.",
    )
    yield Option(
        name="sound_window_frames",
        flags=("--window-frames",),
        kind="int",
        group="edit",
        command="sound",
        help="Frames, 8k + 1, for which audio is sampled at once. A longer video is divided into windows of "
        "this length, and each continues the audio of the one before.",
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
        help="Generate audio without a video, of this length in seconds; it is saved as WAV.",
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
        help="Highest peak of the generated audio, in dB of full scale; louder audio is made quieter as a "
        "whole, without clipping.",
        range=(-200, 0),
        unit="dB",
        default=-1.0,
    )


def windows_options() -> Iterator[Option]:
    """Yield the options of the command for long clips, which are sampled window by window."""
    group, command = "window", "long"
    yield Option(
        name="prompts",
        flags=("--prompts",),
        kind="text",
        group="text",
        command=command,
        help="The prompts; required unless --from-file is used. Either one text; or texts with the time at "
        "which each begins, between ; or on lines, such as '0: a cat; 30: a dog'; or one text for each "
        "window, between |; or a JSON list, of texts for each window or of entries such as "
        '{"from": 30, "prompt": "a dog"}; or @FILE to read any of these from a file. A time is 2.5 '
        "(seconds), 0:30 or 50%. An end may follow, as in 0-4, but a prompt lasts until the next one begins.",
    )
    yield Option(
        name="window_frames",
        flags=("--window-frames",),
        kind="int",
        group=group,
        command=command,
        help="Length of a window (the part that is sampled at once), 8k + 1 frames.",
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
        help="How many frames a window shares with the one before, 8k (a multiple of 8). 24 by default, or "
        "as many as fit a shorter window.",
        range=(8, MAX_FRAMES),
        unit="frames",
    )
    yield Option(
        name="overlap_strength",
        flags=("--overlap-strength",),
        kind="float",
        group=group,
        command=command,
        help="How much of the overlap (the frames shared with the previous window) is preserved: 1 all of "
        "it. Less regenerates it in part and cross-fades.",
        range=(0, 1),
        default=1.0,
    )
    yield Option(
        name="adain",
        flags=("--adain",),
        kind="float",
        group=group,
        command=command,
        help="How far colours and contrast of each window are brought back to those of the first window; 0 "
        "is off, 1 fully.",
        range=(0, 1),
        default=0.0,
    )
    yield Option(
        name="source_strength",
        flags=("--reference",),
        kind="float",
        group=group,
        command=command,
        help="Strength of --video as a reference: how closely the clip follows it; 0 is off. Below 1 the "
        "model receives it with noise.",
        range=(0, 1),
        default=1.0,
    )
    yield Option(
        name="denoise",
        flags=("--denoise",),
        kind="float",
        group=group,
        command=command,
        help="Part of the schedule that is sampled: below 1 each window starts from --video in place of "
        "noise. 0.3 preserves most of it, 1 nothing.",
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
        help="Folder in which each finished window is saved. If the run is stopped, the same command "
        "continues after the last finished window.",
    )


_RELEASES = ("2.0", "2.3", "2.5", "ltxv-2b", "ltxv-13b")
"""Those of ``memory.RELEASED``, whose module imports torch."""


def plans_options() -> Iterator[Option]:
    """Yield the options of the command that predicts memory."""
    group, command = "model", "plan"
    yield Option(
        name="budgets",
        flags=("--max-memory",),
        kind="text",
        group="execution",
        command=command,
        multiple=True,
        help="Memory budget to plan for, such as 12GB, or auto for the free memory of the GPU. Repeat it to "
        "compare budgets. By default auto where there is a GPU, else 8, 12, 16, 24, 32, 48 and 80 GB.",
    )
    yield Option(
        name="model",
        flags=("--model",),
        kind="choice",
        group=group,
        command=command,
        choices=_RELEASES,
        default="2.3",
        help="Released generation of LTX-2, or size of LTX-Video, to plan for, with weights and default "
        "sizes of the release. It is used only if no --checkpoint is named.",
    )
    yield Option(
        name="stored",
        flags=("--stored",),
        kind="choice",
        group=group,
        command=command,
        choices=("bf16", "fp8", "int8"),
        default="bf16",
        help="Without --checkpoint: plan for the bf16, the fp8 or the int8 file of the released model of "
        "--model. With int8, as in the int8 ConvRot files of LTX-2.5, the text encoder is int8 too.",
    )
    yield Option(
        name="train",
        flags=("--train",),
        kind="flag",
        group=group,
        command=command,
        default=False,
        help="Plan a LoRA run of ltx2 train on clips of this size instead, and choose its settings for each "
        "budget.",
    )
    yield Option(
        name="train_text",
        flags=("--train-text",),
        kind="choice",
        group=group,
        command=command,
        choices=("none", "connectors", "projection"),
        default="none",
        help="With --train: networks of the text that the LoRA is for too, which every step then computes.",
    )
    yield Option(
        name="choose",
        flags=("--choose",),
        kind="choice",
        group=group,
        command=command,
        choices=("fast", "balanced", "best"),
        help="Choose model, files, size, length and steps for each budget instead, and say why: fast and "
        "balanced take distilled weights, best full weights with guidance. Only --seconds, --max-memory, "
        "--system-memory, --for-image, --for-lora and --without-audio go with it.",
    )
    yield Option(
        name="for_image",
        flags=("--for-image",),
        kind="flag",
        group=group,
        command=command,
        default=False,
        help="With --choose: for a clip that begins with an image.",
    )
    yield Option(
        name="for_lora",
        flags=("--for-lora",),
        kind="choice",
        group=group,
        command=command,
        choices=_RELEASES,
        help="With --choose: the generation of LTX-2, or size of LTX-Video, that a LoRA was trained for.",
    )
    yield Option(
        name="without_audio",
        flags=("--without-audio",),
        kind="flag",
        group=group,
        command=command,
        default=False,
        help="With --choose: for a clip without audio, which the smaller models of LTX-Video make.",
    )
    yield Option(
        name="system_memory",
        flags=("--system-memory",),
        kind="text",
        group="execution",
        command=command,
        help="With --choose: the most that may be offloaded to system memory, such as 32GB.",
    )
    yield Option(
        name="picture",
        flags=("--picture",),
        kind="path",
        group="output",
        command=command,
        help="Draw the memory plans as a chart into this PNG file.",
    )
