"""Declares the options for the size and length of a clip, and for its input files."""

from __future__ import annotations

from collections.abc import Iterator

from .option import BY_RECIPE, MAX_FRAMES, MAX_SCALE, MAX_SECONDS, MAX_SIDE, Option


def size_options() -> Iterator[Option]:
    """Yield the options for the size, length and frame rate of a clip."""
    group = "size"
    for name in ("width", "height"):
        yield Option(
            name=name,
            flags=(f"--{name}",),
            kind="int",
            group=group,
            help=f"{name.capitalize()} of the clip; a multiple of 32, of 64 with two stages. Without a width "
            "and a height a clip that has an image (--image) gets the proportions of that image.",
            help_of=(("plan", f"{name.capitalize()} of the clip; a multiple of 32, of 64 with two stages."),),
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
        help="Length of the clip in frames, 8k + 1 (such as 97 or 121).",
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
        help="Length of the clip in seconds; use it in place of --frames. auto lets the duration head of "
        "LTX-2.5, a small network, choose 1 to 20 seconds by the prompt; name its file with a further "
        "--checkpoint.",
        help_of=tuple(
            (command, "Length of the clip in seconds; use it in place of --frames.")
            for command in ("long", "plan")
        ),
        range=(0, MAX_SECONDS),
        above=True,
        words=("auto",),
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
        help="How a width, height or length that the model cannot generate is rounded: down (floor), to the "
        "nearest value, or up (ceil). error refuses it. Sizes are multiples of 32 pixels (64 with two "
        "stages), lengths 8k + 1 frames.",
        choices=("floor", "nearest", "ceil", "error"),
        default="nearest",
        request=True,
    )
    yield Option(
        name="stages",
        flags=("--stages",),
        kind="int",
        group=group,
        help="Number of sampling stages: 1 samples at full size. 2 samples at half size, doubles the latent "
        "with the model named by --upscaler, and refines it at full size.",
        range=(1, 2),
        default=BY_RECIPE,
        edit_default=1,
        request=True,
    )
    yield Option(
        name="pipeline_kind",
        flags=("--pipeline",),
        kind="choice",
        group=group,
        choices=("dfr",),
        help="Sample by another pipeline than one or two stages. dfr (Diffusion Fidelity Rendering, for "
        "LTX-2.5) samples two stages with generated keyframes, sharpens the second with --detail-lora, and "
        "doubles the frame rate --temporal-rounds times, sampling the clip again each time. It needs "
        "distilled weights: a distilled checkpoint, or the distilled LoRA with --lora.",
        help_of=(
            (
                "plan",
                "Plan another pipeline than one or two stages. dfr (Diffusion Fidelity Rendering, for "
                "LTX-2.5) samples two stages with generated keyframes, and the clip again in each of "
                "--temporal-rounds. It needs --model 2.5, or a --checkpoint of that generation.",
            ),
        ),
        request=True,
    )
    yield Option(
        name="temporal_rounds",
        flags=("--temporal-rounds",),
        kind="int",
        group=group,
        help="How many times --pipeline dfr doubles the frame rate, with the model of --temporal-upscaler: 1 "
        "makes 48 frames a second of 24, 2 makes 96. --fps and --frames are those before doubling.",
        help_of=(
            (
                "plan",
                "How many times --pipeline dfr doubles the frame rate: 1 makes 48 frames a second of 24, 2 "
                "makes 96. --fps and --frames are those before doubling.",
            ),
        ),
        range=(0, 2),
        default=0,
        request=True,
    )


def inputs_options() -> Iterator[Option]:
    """Yield the options for images, control videos and audio that condition the clip."""
    group = "inputs"
    yield Option(
        name="image",
        flags=("--image",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE[@FRAME][:STRENGTH]",
        help="Image file as FILE, FILE:STRENGTH, FILE@FRAME or FILE@FRAME:STRENGTH, such as a.png or "
        "end.png@-1:0.8. Without @FRAME the image becomes the first frame. With @FRAME the image guides the "
        "clip at that frame, as with --keyframe; frames count from 0, and -1 is the last. STRENGTH 1 (the "
        "default) preserves the image, less lets the model change it. May be repeated.",
        request=True,
    )
    yield Option(
        name="image_strength",
        flags=("--image-strength",),
        kind="float",
        group=group,
        help="How much of the first image is preserved: 1 all of it, 0 nothing. With two stages this is the "
        "strength in the first; less than 1, such as 0.7, lets the clip move more.",
        range=(0, 1),
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="stage2_image_strength",
        flags=("--stage2-image-strength",),
        kind="float",
        group=group,
        help="How much of the first image the second stage preserves: 1 all of it, 0 nothing. 1 restores the "
        "details that a first stage with less has changed.",
        range=(0, 1),
        default=BY_RECIPE,
        request=True,
    )
    yield Option(
        name="image_crf",
        flags=("--image-crf",),
        kind="int",
        group=group,
        help="H.264 compression (constant rate factor) that the image goes through before it is encoded, as "
        "in the training data; 0 is off. Higher values compress more. Without artefacts of compression the "
        "clip tends to be motionless.",
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
        help="Image that guides the clip at a frame, as FILE@FRAME or FILE@FRAME:STRENGTH, such as "
        "mid.png@48 or end.png@-1:0.8. Frames count from 0, and -1 is the last. STRENGTH 1 (the default) "
        "follows the image, less lets the model change it. May be repeated.",
        request=True,
    )
    yield Option(
        name="generated_keyframes",
        flags=("--generated-keyframes",),
        kind="text",
        group=group,
        metavar="COUNT|FRAME,FRAME,...",
        help="Let LTX-2.5 generate single images in addition to the clip in the first stage. The clip "
        "attends to them, which makes it more consistent. The value is a number of images, spread evenly, or "
        "their frames, such as 24,48,-1 (-1 is the last). They are not part of the clip; each costs as much "
        "as 8 frames.",
        request=True,
    )
    yield Option(
        name="references",
        flags=("--control",),
        kind="text",
        group=group,
        multiple=True,
        metavar="FILE[:STRENGTH][,scale=N][,every=N]",
        help="Control video (edges, depth, pose) or reference video for an IC-LoRA, such as "
        "depth.mp4:0.8,scale=2; at least as long as the clip. Only FILE is needed: a colon and STRENGTH "
        "may follow it (1 by default, less follows the video less), then a comma and scale=N, or a comma and "
        "every=N, or both. scale=N encodes the "
        "video N times smaller than the clip, every=N uses only each N-th frame; both are by default what "
        "the LoRA was trained with. May be repeated.",
        request=True,
    )
    yield Option(
        name="fit",
        flags=("--fit",),
        kind="choice",
        group=group,
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="How an image or control video of another aspect ratio than the clip is fitted: crop cuts it "
        "around the centre, pad adds black borders, stretch distorts it.",
        request=True,
    )
    yield Option(
        name="background",
        flags=("--background",),
        kind="text",
        group=group,
        metavar="COLOUR",
        default="black",
        help="Colour that replaces transparent pixels of images, control videos and the source of an edit, "
        "such as white or #00ff00.",
        request=True,
    )
    yield Option(
        name="audio",
        flags=("--audio",),
        kind="path",
        group=group,
        help="Audio file, or video with audio, that becomes the audio of the clip; the video is generated to "
        "match it.",
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
        help="Mix white noise into the copy of --audio that the model is given, so that digital silence "
        "sounds like a recording, which is what the model was trained on. In dB of full scale: -60 is barely "
        "audible, -30 clearly. The saved audio is --audio without the noise.",
        range=(-200, 0),
        unit="dB",
        request=True,
    )
    yield Option(
        name="reference_audio",
        flags=("--reference-audio",),
        kind="path",
        group=group,
        help="Audio file, such as a voice, that the generated audio imitates. It needs a LoRA that was "
        "trained for this (see --lora).",
        request=True,
    )
    yield Option(
        name="reference_s",
        flags=("--reference-seconds",),
        kind="float",
        group=group,
        help="How many seconds of --reference-audio are used. They are taken from its beginning.",
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
        help="Guidance scale towards --reference-audio; 0 is off. Higher values imitate it more closely. "
        "Costs one more guidance pass (a forward pass of the network) in each sampling step.",
        range=(0, MAX_SCALE),
        default=3.0,
        request=True,
    )
