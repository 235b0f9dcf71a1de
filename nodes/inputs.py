"""Inputs that several nodes share, each declared once: bounds, default and tooltip."""

from __future__ import annotations

from comfy_api.latest import io

from ..ltx2_core.conditioning.regions import Rounding
from ..ltx2_core.shapes import SPATIAL_SCALE
from .numbers import IntOrFloat, real_input
from .quantity import quantity

Plan = io.Custom("LTX2AV_CLIP_PLAN")
ICLoraParameters = io.Custom("IC_LORA_PARAMETERS")
"""ComfyUI's own type of input for what an IC-LoRA needs of its reference, such as a smaller size."""

BY_MODEL = -1
"""Value of an image's ``crf`` that leaves the number to the model's recipe (its default settings)."""

LEFT_TO_MODEL = "by the model"
"""Value of a widget that leaves the choice to the model's recipe (its default settings)."""

AS_ABOVE = "as above"
"""Value of a widget that leaves the choice to the widgets above it."""

SECONDS, FRAMES = "seconds", "frames"
"""The two values of the widget ``length_unit``."""

AUTO = "auto"
"""A value of the widget ``length_unit`` of LTX-2 Clip Plan: the length is the predicted one."""

# The largest size of the host's own nodes.
MAX_SIZE = 16384
MAX_FPS = 240.0
MAX_FRAMES = 100001
MAX_SECONDS = 100000.0
MAX_SCALE = 100.0
"""The largest scale of guidance."""

MAX_STRENGTH = 10.0
"""The largest strength of a guide or reference."""


def model_input() -> io.Input:
    """The input for the model that samples."""
    return io.Model.Input("model", tooltip="The model, with LoRAs if any.")


def positive_input() -> io.Input:
    """The input for the conditioning of the prompt."""
    return io.Conditioning.Input("positive", tooltip="From LTX-2 Prompt.")


def conditioning_inputs(positive: str) -> list[io.Input]:
    """The inputs for both conditionings of a node that changes them; ``positive`` is a tooltip."""
    return [
        io.Conditioning.Input("positive", tooltip=positive),
        io.Conditioning.Input("negative", tooltip="The negative conditioning that belongs to positive."),
    ]


def conditioning_outputs(positive: str, negative: str) -> list[io.Output]:
    """The outputs for both conditionings, with these tooltips."""
    return [
        io.Conditioning.Output(display_name="positive", tooltip=positive),
        io.Conditioning.Output(display_name="negative", tooltip=negative),
    ]


def sampled_inputs(off: str) -> list[io.Input]:
    """The inputs for the model and for both conditionings of a sampling run.

    ``off`` says in the tooltip of the negative conditioning when it has no effect, such as "cfg is 1".
    """
    return [
        model_input(),
        positive_input(),
        io.Conditioning.Input("negative", tooltip=f"From LTX-2 Prompt; without effect if {off}."),
    ]


def text_encoder_input() -> io.Input:
    """The input for the text encoder."""
    return io.Clip.Input("clip", tooltip="Text encoder from LTX-2 Load All or LTX-2 Load Text Encoder.")


def size_input(name: str, default: int, what: str) -> io.Input:
    """A widget ``name`` for a width or height in pixels; ``what`` begins its tooltip."""
    more = f"{what}. Larger frames need more memory and time."
    return quantity(name, default, low=SPATIAL_SCALE, high=MAX_SIZE, step=SPATIAL_SCALE, more=more)


def frames_input(default: int, tooltip: str) -> io.Input:
    """A widget for a number of frames, of the form 8k + 1."""
    return quantity("num_frames", default, name="frames", high=MAX_FRAMES, step=8, more=tooltip)


def fps_input(tooltip: str) -> io.Input:
    """A widget for a frame rate in frames per second."""
    return IntOrFloat(quantity("fps", 24.0, low=1.0, high=MAX_FPS, step=0.001, more=tooltip))


def plan_input(tooltip: str) -> io.Input:
    """An optional input for a clip plan."""
    return Plan.Input("plan", optional=True, tooltip=tooltip)


def batch_input(what: str = "clips") -> io.Input:
    """A widget for the batch size; ``what``, a plural, says in the tooltip what a batch consists of."""
    return io.Int.Input(
        "batch_size",
        default=1,
        min=1,
        max=64,
        tooltip=f"How many {what} to make at once, each from its own noise. Memory grows with it.",
    )


def length_unit_input(*, default: str | None = None, auto: bool = False) -> io.Input:
    """A widget that says whether the widget ``length`` counts seconds or frames.

    With ``default`` None the first choice, seconds, is chosen. ``auto`` adds the choice of a predicted one.
    """
    more = " auto takes predicted_seconds in place of length." if auto else ""
    return io.Combo.Input(
        "length_unit",
        options=[SECONDS, FRAMES, *[AUTO] * auto],
        default=default,
        tooltip=f"Whether length counts seconds or frames.{more}",
    )


def length_input(default: float, tooltip: str) -> io.Input:
    """A widget for a length, in seconds or frames as the widget ``length_unit`` says."""
    return IntOrFloat(
        real_input("length", default=default, low=0.01, high=MAX_SECONDS, step=0.01, tooltip=tooltip)
    )


def stages_input(upscaled: str = "", *, default: str | None = "2") -> io.Input:
    """A widget for the number of sampling stages, 1 or 2.

    The first of two stages samples at half the width and height. ``upscaled`` names in the tooltip the node
    that upscales between them. With ``default`` None the first choice, 1, is chosen.
    """
    doubled = f" and {upscaled} doubles them" if upscaled else ""
    tooltip = f"2: the first stage has half the width and height{doubled}. 1: sample at full size."
    return io.Combo.Input("stages", options=["1", "2"], default=default, tooltip=tooltip)


def start_input(more: str = "", *, text: str | None = None) -> io.Input:
    """A widget for a time in an audio input, in seconds.

    The default tooltip says that the clip begins at this time. ``text`` replaces the tooltip, and ``more`` is
    appended to it.
    """
    audio = {"audio": "the audio"}
    return quantity(
        "audio_start_s", 0.0, name="start", high=MAX_SECONDS, step=0.01, flags=audio, more=more, text=text
    )


def identity_input(default: float, more: str) -> io.Input:
    """A widget for the guidance scale towards a reference audio; ``more`` is appended to its tooltip."""
    reference = {"reference-audio": "the reference audio"}
    return quantity("identity", default, high=MAX_SCALE, step=0.05, flags=reference, more=more)


def ceiling_input(default: float, more: str = "", *, optional: bool = False) -> io.Input:
    """A widget for the highest peak of generated audio, in dB of full scale.

    ``more`` is appended to its tooltip.
    """
    return quantity("ceiling_db", default, name="ceiling", low=-60.0, step=0.1, more=more, optional=optional)


def decoder_seed_input() -> io.Input:
    """The input for the seed of a diffusion VAE; optional, because older workflows lack it."""
    return io.Int.Input(
        "decoder_seed",
        default=0,
        min=0,
        max=2**64 - 1,
        optional=True,
        tooltip="Seed of the noise from which the diffusion VAE of LTX-2.5 makes frames; another one changes "
        "fine detail. Other VAEs use no noise: leave it at 0.",
    )


def video_regions_input() -> io.Input:
    """A widget for the time regions of the video to regenerate, in seconds."""
    return io.String.Input(
        "video_regions",
        default="2-4",
        tooltip="Seconds of the video to regenerate, such as 2-4, 5.5-6; the rest is preserved, and with an "
        "empty field all of it.",
    )


def audio_regions_input() -> io.Input:
    """A widget for the time regions of the audio to regenerate, in seconds."""
    return io.String.Input(
        "audio_regions",
        default="2-4",
        tooltip="Seconds of the audio to regenerate; the rest is preserved, and with an empty field all of "
        "it.",
    )


def rounding_input() -> io.Input:
    """A widget that says how time regions are rounded to latent frames."""
    return io.Combo.Input(
        "rounding",
        options=[rounding.value for rounding in (Rounding.COVER, Rounding.INSIDE, Rounding.TOUCH)],
        tooltip="cover regenerates every latent frame that a region overlaps, inside only those that lie "
        "completely in it, touch also those that only border on it.",
    )


def image_crf_input(more: str = "") -> io.Input:
    """A widget for the H.264 compression of a conditioning image; -1, the default, is that of the training.

    ``more`` is appended to its tooltip.
    """
    # The widget always allowed 100, and saved workflows may hold more than 51, the end of the scale of H.264.
    return quantity(
        "image_crf",
        BY_MODEL,
        name="crf",
        low=BY_MODEL,
        high=100,
        more=f"-1 takes what the model was trained with: 33 up to 2.3, 18 from 2.4 on. More adds motion and "
        f"costs detail. {more}",
    )


def file_crf_input() -> io.Input:
    """A widget for the H.264 quality of an output file."""
    return io.Int.Input(
        "crf",
        default=18,
        min=0,
        max=51,
        tooltip="Quality of the H.264 file: lower is better and larger, 18 looks lossless.",
    )


def percent_inputs(what: str) -> tuple[io.Input, io.Input]:
    """Two widgets, ``start_percent`` and ``end_percent``: in which part of the schedule something acts.

    Both are from 0 (first step) to 1 (last step). ``what`` names in the tooltips what acts.
    """
    return (
        _percent("start_percent", 0.0, f"Where in the schedule {what} begins: 0 is the first sampling step."),
        _percent("end_percent", 1.0, f"Where in the schedule {what} ends: 1 is the last sampling step."),
    )


def steps_input(more: str = "", default: int = 20) -> io.Input:
    """A widget for the number of sampling steps; ``more`` is appended to its tooltip."""
    # The help is of the first stage only, and nodes sample any.
    return quantity("steps", default, text="Sampling steps; more take longer and add detail", more=more)


def cfg_input(name: str, default: float, more: str) -> io.Input:
    """A widget for a scale of classifier-free guidance; ``name`` is "cfg" (video) or "audio_cfg" (audio).

    ``more`` is appended to its tooltip.
    """
    return quantity(name, default, high=MAX_SCALE, step=0.1, more=more)


def sigma_input(name: str, default: float, tooltip: str, *, low: float = 0.0, high: float = 1.0) -> io.Input:
    """A widget ``name`` for a noise level from ``low`` to ``high``, where 0 is clean and 1 is noise only."""
    return real_input(name, default=default, low=low, high=high, step=0.001, tooltip=tooltip)


def shift_input(
    name: str, default: float, tooltip: str, *, high: float = 100.0, optional: bool = False
) -> io.Input:
    """A widget ``name`` for a parameter of the schedule, from 0 to ``high``.

    Such parameters are a shift of the noise levels, or the noise level before the last step.
    """
    return real_input(
        name, default=default, low=0.0, high=high, step=0.01, optional=optional, tooltip=tooltip
    )


def share_input(
    name: str, default: float, tooltip: str, *, low: float = 0.0, optional: bool = False
) -> io.Input:
    """A widget ``name`` for a number from ``low`` to 1."""
    return real_input(name, default=default, low=low, high=1.0, step=0.01, optional=optional, tooltip=tooltip)


def strength_input(name: str, default: float, tooltip: str, *, optional: bool = False) -> io.Input:
    """A widget ``name`` for the strength of a guide, from 0 to 10.

    Above 1 the strength only increases the attention to the guide.
    """
    return real_input(
        name, default=default, low=0.0, high=MAX_STRENGTH, step=0.01, optional=optional, tooltip=tooltip
    )


def downscale_input(tooltip: str, *, optional: bool = False) -> io.Input:
    """A widget that says how many times smaller than the clip a reference is encoded.

    0 leaves it to the LoRA.
    """
    return io.Int.Input("downscale", default=0, min=0, max=8, optional=optional, tooltip=tooltip)


def iclora_parameters_input() -> io.Input:
    """An optional input for the parameters of an IC-LoRA.

    They come from this pack's LoRA loader or from ComfyUI's own node.
    """
    return ICLoraParameters.Input(
        "iclora_parameters",
        optional=True,
        tooltip="From LTX-2 Load LoRA or Get IC-LoRA Parameters: the factors that the LoRA was trained with.",
    )


def _percent(name: str, default: float, tooltip: str) -> io.Input:
    return real_input(name, default=default, low=0.0, high=1.0, step=0.001, tooltip=tooltip)
