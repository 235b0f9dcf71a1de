"""The body of ``POST /v1/inference`` of ai-toolkit-inference, its checks in order, and the job it makes.

Fields, ranges, defaults and codes are those of that server for LTX-2; see docs/serve.md for what differs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from ..run.request import Request
from ..sampling.guidance import Guidance, StreamGuidance
from ..shapes import SPATIAL_SCALE
from ..text.prompt import TRIGGER
from .answers import ApiError
from .roots import OutsideRoots, Roots
from .served_model import ServedModel
from .specs import ClipSpec, JobSpec

DIVISOR: Final = SPATIAL_SCALE
STEPS, GUIDANCE, FRAMES, FPS = 25, 4.0, 41, 24
"""Defaults of LTX-2: sampling steps, guidance scale, frames, frames per second."""
_SEED: Final = 42
"""The seed of the first prompt that names none; each further one has the next."""
_NO_HIGH: Final = "resolution 'High' is not supported by this model: leave it out, or request twice the size"
_HIGH_SIGMAS: Final = (0.909375, 0.725, 0.421875)
"""Noise levels of the three steps at twice the size."""
_HIGH_STRENGTH: Final = 0.8
"""Strength of the distilled LoRA in these steps."""


MOST_CHARACTERS: Final = 20_000
"""The longest prompt, also after a trigger word has taken the place of its marks."""
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_Word = Annotated[str, Field(max_length=200)]


class LoraItem(BaseModel, allow_inf_nan=False):
    """A LoRA: a file below the folder of LoRAs, and its strength."""

    path: str
    transformer: Literal["low", "high"] | None = None
    network_multiplier: Annotated[float, Field(ge=-2, le=2)] | None = None


class PromptItem(BaseModel, allow_inf_nan=False):
    """One clip to make."""

    prompt: _Text
    trigger_word: _Word | None = None
    neg: _Text = ""
    width: Annotated[int, Field(ge=64, le=4096)] = 1024
    height: Annotated[int, Field(ge=64, le=4096)] = 1024
    sample_steps: Annotated[int, Field(ge=1, le=150)] = STEPS
    guidance_scale: Annotated[float, Field(ge=0, le=20)] = GUIDANCE
    seed: Annotated[int, Field(ge=-1, lt=2**64)] | None = None
    sampler: str | None = None
    num_frames: Annotated[int, Field(ge=1, le=1000)] = FRAMES
    fps: Annotated[int, Field(ge=1, le=120)] = FPS
    resolution: Literal["Default", "High"] | None = None
    ctrl_img: str | None = None
    ctrl_img_1: str | None = None
    ctrl_img_2: str | None = None
    ctrl_img_3: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, values: Any) -> Any:
        """Leave out values of null, for which clients mean the default; a prompt is never null."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name == "prompt"}

    def control_images(self) -> list[str]:
        """The control images: the numbered ones, or else ``ctrl_img``."""
        numbered = [one for one in (self.ctrl_img_1, self.ctrl_img_2, self.ctrl_img_3) if one]
        return numbered or ([self.ctrl_img] if self.ctrl_img else [])


class InferenceRequest(BaseModel):
    """The body of ``POST /v1/inference``. Unknown fields are ignored."""

    model: str
    loras: Annotated[list[LoraItem], Field(max_length=100)]
    prompts: Annotated[list[PromptItem], Field(min_length=1, max_length=100)]
    trigger_word: _Word | None = None
    hf_token: str | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Raise ValueError for a prompt that its trigger word makes too long."""
        for index, item in enumerate(self.prompts):
            word = self.word(item)
            more = item.prompt.count(TRIGGER) * (len(word) - len(TRIGGER)) if word else 0
            if len(item.prompt) + more > MOST_CHARACTERS:
                raise ValueError(
                    f"prompts[{index}].prompt with its trigger word has more than {MOST_CHARACTERS} "
                    "characters: shorten it"
                )
        return self

    def word(self, item: PromptItem) -> str | None:
        """The trigger word of a prompt: its own, or else that of the request."""
        return item.trigger_word or self.trigger_word


def checked_lora(body: InferenceRequest, models: Collection[str], roots: Roots) -> tuple[str, float]:
    """Check a request in the order of the original and return its LoRA: (path, strength).

    Raises :class:`ApiError` for the first thing that is wrong.
    """
    if body.model not in models:
        raise _wrong(
            "MODEL_NOT_FOUND",
            f"Model '{body.model}' is not supported",
            supported_models=[*models],
        )
    shown = [lora.model_dump() for lora in body.loras]
    if not body.loras:
        raise _wrong("LORA_FILE_REQUIRED", "At least one LoRA is required", loras=shown)
    if any(lora.transformer is not None for lora in body.loras):
        message = f"Model '{body.model}' takes no 'transformer' of a LoRA"
        raise _wrong("MOE_FORMAT_NOT_SUPPORTED", message, loras=shown)
    if len(body.loras) > 1:
        raise _wrong("SINGLE_LORA_ONLY", f"Model '{body.model}' takes one LoRA", loras=shown)
    (lora,) = body.loras
    try:
        path = roots.lora(lora.path)
    except OutsideRoots as error:
        raise _wrong("LORA_NOT_FOUND", str(error), lora_path=lora.path) from None
    strength = 1.0 if lora.network_multiplier is None else lora.network_multiplier
    for index, prompt in enumerate(body.prompts):
        if roots.fetch is None and any(image.startswith("http") for image in prompt.control_images()):
            raise ApiError(
                422,
                "INVALID_PARAMETER",
                "this server fetches no URLs: send the control image in base64",
                details={"prompt_index": index},
            )
    return str(path), strength


def job_of(
    body: InferenceRequest,
    model: ServedModel,
    lora: tuple[str, float],
    folder: Path,
    fetch: Callable[[str], Path] | None = None,
) -> JobSpec:
    """Make the job of a request; control images are written into ``folder``, the work of the job.

    ``model`` is the one that it names, and ``lora`` what :func:`checked_lora` returned. ``fetch`` is that of
    :class:`Roots`. Raises what it raises.
    """
    clips = (
        _clip(item, dict(fields), model, lora)
        for item, fields in zip(body.prompts, _requests(body, folder, fetch), strict=True)
    )
    return JobSpec(model=body.model, clips=tuple(clips))


def _clip(
    item: PromptItem, fields: dict[str, object], model: ServedModel, lora: tuple[str, float]
) -> ClipSpec:
    if item.resolution != "High":
        return ClipSpec(command="generate", request=fields, loras=(lora,))
    if model.distilled_lora is None or model.upscaler is None:
        return ClipSpec(command="generate", request=fields, loras=(lora,), refused=_NO_HIGH)
    sizes = {name: getattr(item, name) // DIVISOR * DIVISOR * 2 for name in ("width", "height")}
    # The audio is that of the first stage, which has the size that was asked for.
    stages = {"stages": 2, "stage2_sigmas": list(_HIGH_SIGMAS), "stage2_sampler": "euler", "audio_stage": 1}
    if "image" in fields:
        stages["stage2_image_strength"] = 1.0
    return ClipSpec(
        command="generate",
        request={**fields, **sizes, **stages},
        loras=(lora,),
        stage2_loras=((str(model.distilled_lora), _HIGH_STRENGTH),),
    )


def _requests(
    body: InferenceRequest, folder: Path, fetch: Callable[[str], Path] | None
) -> Iterator[dict[str, object]]:
    for index, item in enumerate(body.prompts):
        word = body.word(item)
        # At a scale of 1 or less diffusers leaves the negative prompt out.
        stream = StreamGuidance(cfg=max(1.0, item.guidance_scale))
        fields: dict[str, object] = {
            "prompt": item.prompt.replace(TRIGGER, word) if word else item.prompt,
            "negative_prompt": item.neg,
            "width": item.width,
            "height": item.height,
            "num_frames": item.num_frames,
            "fps": float(item.fps),
            # As its own code and diffusers do: sizes and frames are rounded down onto the grid.
            "snap": "floor",
            "steps": item.sample_steps,
            "schedule": "clip",
            "sampler": "euler",
            "stages": 1,
            "seed": _SEED + index if item.seed is None else item.seed,
        }
        images = item.control_images()
        # Several images are ignored, like there.
        if len(images) == 1:
            if fetch is not None and images[0].startswith("http"):
                path = fetch(images[0])
            else:
                path = folder / f"image_{index}"
                path.write_bytes(_decoded(images[0]))
            fields |= {"image": str(path), "image_strength": 1.0, "image_crf": 0, "fit": "stretch"}
        made = Request(**fields, guidance=Guidance(video=stream, audio=stream))  # type: ignore[arg-type]
        settings = made.settings()
        # A drawn seed is stored, so that a resumed job makes the same clip.
        yield {**fields, "seed": made.seed, "guidance": settings["guidance"]}


def _decoded(text: str) -> bytes:
    """The bytes of an image in base64, with or without ``data:...,`` in front.

    Text that is no base64 is returned as it is: reading the image fails later, as in the original.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "replace")


def _wrong(code: str, message: str, **details: object) -> ApiError:
    return ApiError(400, code, message, details=details, wrapped=True)  # type: ignore[arg-type]
