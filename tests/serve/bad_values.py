"""Values of a wrong type or out of range for every field of both APIs, each of which is answered 422."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ltx2_core.run.options import OPTIONS

from .bad_requests import JOB, LORA, Bad, job, prompt, seed

NO_TEXT: tuple[Any, ...] = (1, [], {"a": 1}, True)
NO_NUMBER: tuple[Any, ...] = ("x", [1], {"a": 1})
NO_OBJECT: tuple[Any, ...] = (1, "a", [], True)
NO_LIST: tuple[Any, ...] = (1, "a", {"a": 1}, True)


def _seed_rows() -> Iterator[Bad]:
    texts = ("prompt", "neg", "trigger_word", "sampler", "ctrl_img", "ctrl_img_1", "ctrl_img_2", "ctrl_img_3")
    whole = ("width", "height", "sample_steps", "num_frames", "fps", "seed")
    for name, values in (
        *((name, NO_TEXT) for name in texts),
        *((name, (*NO_NUMBER, 64.5)) for name in whole),
        ("guidance_scale", NO_NUMBER),
        ("resolution", (*NO_TEXT, "high")),
    ):
        yield from (prompt(f"{name} is {value!r}", **{name: value}) for value in values)
    for name, values in (
        *((name, NO_TEXT) for name in ("model", "trigger_word", "hf_token")),
        *((name, NO_LIST) for name in ("loras", "prompts")),
    ):
        yield from (seed(f"{name} is {value!r} for all", 422, None, **{name: value}) for value in values)
    for name, values in (("path", NO_TEXT), ("network_multiplier", (*NO_NUMBER, -2.5))):
        for value in values:
            yield seed(f"{name} of a LoRA is {value!r}", 422, None, loras=[{**LORA, name: value}])


def _job_rows() -> Iterator[Bad]:
    for name, values in (
        *((name, NO_TEXT) for name in ("command", "model", "source", "format")),
        *((name, NO_OBJECT) for name in ("request", "arguments", "encoding")),
        ("loras", NO_LIST),
    ):
        yield from (job(f"{name} is {value!r}", code=None, **{name: value}) for value in values)
    for name in ("seconds", "frames", "keep_frames", "fade_frames"):
        for value in (*NO_NUMBER, -1):
            yield job(
                f"{name} of extend is {value!r}",
                code=None,
                command="extend",
                source="text.png",
                arguments={name: value},
            )
    for option in OPTIONS:
        if not option.request or option.kind not in ("int", "float"):
            continue
        low, high = option.range
        beyond = [low - 1] if low is not None else []
        beyond += [high * 2 + 1] if high is not None else []
        for value in ([1], {"a": 1}, *beyond):
            # -1 draws a seed.
            if (option.name, value) != ("seed", -1):
                request = {**JOB["request"], option.name: value}
                yield job(f"{option.name} of a request is {value!r:.40}", request=request)


VALUE_ROWS = (*_seed_rows(), *_job_rows())
