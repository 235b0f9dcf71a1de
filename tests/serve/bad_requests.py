"""Requests that the service refuses, each with the status and the code that docs/serve.md promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LORA = {"path": "style.safetensors"}
SEED = {"model": "ltx2", "loras": [LORA], "prompts": [{"prompt": "a ball"}]}
JOB = {"model": "ltx2", "request": {"prompt": "a ball", "width": 64, "height": 64, "num_frames": 9}}

SHOTS = {"format": "ltx2.shots/1", "prompt": "a ball", "clip": {"width": 64, "height": 64, "frames": 9}}


@dataclass(frozen=True)
class Bad:
    """A request: its name as a test, what is sent, and what must come back."""

    name: str
    status: int
    code: str | None
    """The code of the error; None for pydantic's list and for answers of the framework."""
    method: str = "POST"
    path: str = "/v1/jobs"
    send: dict[str, Any] = field(default_factory=dict)
    """Arguments of the client, such as ``json`` and ``headers``."""
    says: str = ""
    """What the message holds."""


def seed(name: str, status: int, code: str | None, says: str = "", **body: Any) -> Bad:
    return Bad(name, status, code, path="/v1/inference", send={"json": {**SEED, **body}}, says=says)


def prompt(name: str, says: str = "", **item: Any) -> Bad:
    return seed(name, 422, None, says, prompts=[{"prompt": "a ball", **item}])


def job(name: str, says: str = "", code: str | None = "INVALID_PARAMETER", **body: Any) -> Bad:
    return Bad(name, 422, code, send={"json": {**JOB, **body}}, says=says)


def asked(name: str, says: str = "", **fields: Any) -> Bad:
    return job(name, says, request={**JOB["request"], **fields})


def raw(name: str, status: int, body: bytes, path: str = "/v1/jobs") -> Bad:
    return Bad(
        name, status, None, path=path, send={"content": body, "headers": {"content-type": "application/json"}}
    )


SEED_ROWS = (
    # Types and ranges come first.
    seed("no prompts", 422, None, prompts=[]),
    seed("prompts are no list", 422, None, prompts="a ball"),
    seed("loras are null", 422, None, loras=None),
    seed("a LoRA without a path", 422, None, loras=[{"network_multiplier": 1}]),
    seed("a multiplier above 2", 422, None, loras=[{**LORA, "network_multiplier": 2.5}]),
    seed("an unknown transformer", 422, None, loras=[{**LORA, "transformer": "middle"}]),
    seed("model is a number", 422, None, model=2),
    seed("a wrong type comes before an unknown model", 422, None, model="sdxl", prompts=[]),
    prompt("width 63", width=63),
    prompt("width 4097", width=4097),
    prompt("height is text", height="tall"),
    prompt("no steps", sample_steps=0),
    prompt("151 steps", sample_steps=151),
    prompt("guidance 20.5", guidance_scale=20.5),
    prompt("guidance below 0", guidance_scale=-1),
    prompt("seed -2", seed=-2),
    prompt("no frames", num_frames=0),
    prompt("1001 frames", num_frames=1001),
    prompt("fps 0", fps=0),
    prompt("fps 121", fps=121),
    prompt("resolution Ultra", resolution="Ultra"),
    prompt("prompt is null", prompt=None),
    prompt("a prompt of 20001 characters", prompt="a" * 20_001),
    prompt("a negative prompt of 20001 characters", neg="a" * 20_001),
    prompt("a trigger word of 201 characters", trigger_word="a" * 201),
    prompt(
        "a prompt that its trigger word makes too long",
        "more than 20000",
        prompt="[trigger]" * 150,
        trigger_word="a" * 200,
    ),
    seed("a trigger word for all of 201 characters", 422, None, trigger_word="a" * 201),
    seed("101 LoRAs", 422, None, loras=[LORA] * 101),
    prompt("guidance of 400 digits", guidance_scale=10**400),
    prompt("a seed of 400 digits", seed=10**400),
    # Then the checks of the original, in its order.
    seed("an unknown model", 400, "MODEL_NOT_FOUND", model="sdxl"),
    seed("an unknown model comes before a missing LoRA", 400, "MODEL_NOT_FOUND", model="sdxl", loras=[]),
    seed("no LoRA", 400, "LORA_FILE_REQUIRED", loras=[]),
    seed("a transformer", 400, "MOE_FORMAT_NOT_SUPPORTED", loras=[{**LORA, "transformer": "low"}]),
    seed(
        "a transformer comes before two LoRAs",
        400,
        "MOE_FORMAT_NOT_SUPPORTED",
        loras=[LORA, {**LORA, "transformer": "high"}],
    ),
    seed("two LoRAs", 400, "SINGLE_LORA_ONLY", loras=[LORA, LORA]),
    seed("a missing LoRA", 400, "LORA_NOT_FOUND", loras=[{"path": "none.safetensors"}]),
    # What ours refuses in addition.
    seed("a LoRA outside of the folder", 400, "LORA_NOT_FOUND", loras=[{"path": "../state/jobs.sqlite"}]),
    seed("an absolute LoRA", 400, "LORA_NOT_FOUND", loras=[{"path": "/etc/passwd"}]),
    seed(
        "a LoRA by URL", 400, "LORA_NOT_FOUND", "URL", loras=[{"path": "https://example.com/l.safetensors"}]
    ),
    seed(
        "a control image by URL",
        422,
        "INVALID_PARAMETER",
        "URL",
        prompts=[{"prompt": "a ball", "ctrl_img": "http://127.0.0.1/x.png"}],
    ),
    seed(
        "too much work",
        422,
        "INVALID_PARAMETER",
        prompts=[{"prompt": "a", "width": 4096, "height": 4096, "num_frames": 1000, "sample_steps": 150}],
    ),
    raw("no JSON", 422, b"{", path="/v1/inference"),
    raw("a list", 422, b"[]", path="/v1/inference"),
    raw(
        "NaN",
        422,
        b'{"model": "ltx2", "loras": [], "prompts": [{"prompt": "a", "guidance_scale": NaN}]}',
        path="/v1/inference",
    ),
    Bad("an unknown request", 404, "REQUEST_NOT_FOUND", "GET", "/v1/requests/none/status"),
    Bad("an unknown result", 404, "REQUEST_NOT_FOUND", "GET", "/v1/requests/none/result"),
)

JOB_ROWS = (
    job("an unknown model", code="MODEL_NOT_FOUND", model="sdxl"),
    job("a model that is half an emoji", code=None, model="\ud83d"),
    job("an unknown command", code=None, command="paint"),
    job("an unknown field", code=None, steps=3),
    job("arguments of another command", "generate has no frames", code=None, arguments={"frames": 9}),
    job("an edit without a source", "needs a source", code=None, command="extend"),
    job("a source of none", "takes no source", code=None, source="clip.mp4"),
    job("audio without a length", "audio needs arguments.seconds", code=None, command="audio"),
    *(
        job(
            f"a ceiling of {value}", code=None, command="audio", arguments={"seconds": 1, "ceiling_db": value}
        )
        for value in (float("nan"), float("inf"), -201, 0.5)
    ),
    *(
        job(f"seconds of {value}", code=None, command="audio", arguments={"seconds": value})
        for value in (float("nan"), float("inf"), 0)
    ),
    job(
        "a region that is infinite",
        code=None,
        command="retake",
        source="text.png",
        arguments={"video": [[0, float("inf")]]},
    ),
    job("1001 regions", code=None, command="retake", source="text.png", arguments={"video": [[0, 1]] * 1001}),
    job("seconds of 400 digits", code=None, command="audio", arguments={"seconds": 10**400}),
    job(
        "frames of 400 digits",
        code="INVALID_PARAMETER",
        command="long",
        arguments={"window_frames": 10**400},
    ),
    *(
        job(f"{name} of 400 digits", "finite", None, request={**JOB["request"], name: 10**400})
        for name in ("width", "num_frames", "fps", "cfg", "steps", "seed")
    ),
    job("a number of 400 digits in a list", "finite", None, request={"prompt": "a", "sigmas": [10**400]}),
    job("shots of another command", "takes no shots", None, command="long", shots=SHOTS),
    job("shots that are none", "a shot list begins with", request={}, shots={"prompt": "a"}),
    job("shots with an unknown key", "colour", request={}, shots={**SHOTS, "colour": 1}),
    job("shots with a number of 400 digits", "finite", None, request={}, shots={**SHOTS, "fade": 10**400}),
    job(
        "shots with a file outside of the folders",
        "no file '../a.png'",
        request={},
        shots={**SHOTS, "images": [{"file": "../a.png"}]},
    ),
    job(
        "shots with an image after the end",
        "images 1, at",
        request={},
        shots={**SHOTS, "images": [{"file": "text.png", "at": 1000}]},
    ),
    job(
        "shots with a LoRA of two strengths",
        "leave audio out",
        request={},
        shots={**SHOTS, "loras": [{"file": "a.safetensors", "audio": 0.5}]},
    ),
    Bad(
        "a plan of shots",
        422,
        "INVALID_PARAMETER",
        "POST",
        "/v1/plan",
        {"json": {"model": "ltx2", "shots": SHOTS}},
        says="shots are read by POST /v1/jobs alone",
    ),
    job("an unknown format", code=None, format="exe"),
    job("a codec of another format", "video_codec", format="webm", encoding={"video_codec": "prores"}),
    job("frames in a file of audio", format="wav", encoding={"crf": 20}),
    job("no prompt", "request.prompt is missing", request={"width": 64}),
    asked("an unknown field of the request", "widht", widht=64),
    asked("a width that is text", "width", width="wide"),
    asked("a negative width", "width", width=-64),
    asked("no steps", "steps", steps=0),
    asked("steps and sigmas", "sigmas", steps=3, sigmas=[1.0, 0.5]),
    asked("an unknown sampler", "sampler", sampler="magic"),
    asked("a seed above 64 bits", "seed", seed=2**70),
    asked("two stages of a size for one", "64", width=96, stages=2, snap="error"),
    asked("too much work", "width x height", width=4096, height=4096, num_frames=1001, steps=150),
    asked("a missing image", "no file 'none.png'", image="none.png"),
    asked("an image outside of the folders", "no file", image="../state/jobs.sqlite"),
    asked("an image of the system", "no file '/etc/passwd'", image="/etc/passwd"),
    asked("an image of the system by a link", "no file 'link.png'", image="link.png"),
    asked("an image by URL", "URL", image="https://example.com/a.png"),
    asked("an image by a protocol of FFmpeg", "URL", image="concat:a.png|b.png"),
    asked("a keyframe outside of the folders", "no file", images=[{"source": "../../etc/passwd"}]),
    asked("a control video outside", "no file", references=[{"source": "C:\\clip.mp4"}]),
    asked("audio with a NUL", "no file", audio="a\0.wav"),
    asked("an upload outside of its folder", "no file", image="uploads/../jobs.sqlite"),
    asked("an image that is none", "cannot read", image="text.png"),
    job("latents", "cannot be set", None, request={"prompt": "a", "latents": "x.safetensors"}),
    job(
        "a record of a source",
        "cannot be set",
        None,
        request={"prompt": "a", "source_clip": {"path": "/etc"}},
    ),
    job("a LoRA outside of the folders", "no file", loras=[{"path": "../a.safetensors"}]),
    job("a LoRA that is none", "text.safetensors", loras=[{"path": "text.safetensors"}]),
    job(
        "a source that is none", "cannot decode", command="extend", source="text.png", arguments={"frames": 8}
    ),
    raw("no JSON", 422, b"{"),
    raw("deep JSON", 400, b'{"model":' + b"[" * 100_000),
    raw("an infinite number", 422, b'{"model": "ltx2", "request": {"prompt": "a", "cfg": 1e999}}'),
    Bad("an unknown job", 404, "JOB_NOT_FOUND", "GET", "/v1/jobs/none"),
    Bad("the file of an unknown job", 404, "JOB_NOT_FOUND", "GET", "/v1/jobs/none/file"),
    Bad("the events of an unknown job", 404, "JOB_NOT_FOUND", "GET", "/v1/jobs/none/events"),
    Bad("cancel an unknown job", 404, "JOB_NOT_FOUND", "POST", "/v1/jobs/none/cancel"),
    Bad("delete an unknown job", 404, "JOB_NOT_FOUND", "DELETE", "/v1/jobs/none"),
    Bad("an unknown state", 422, None, "GET", "/v1/jobs?state=lost"),
    Bad("a page of no jobs", 422, None, "GET", "/v1/jobs?limit=0"),
    Bad("no such route", 404, None, "GET", "/v1/nothing"),
    Bad("another method", 405, None, "PUT", "/v1/jobs"),
    Bad("an upload without a file", 422, None, "POST", "/v1/files"),
    Bad("an upload in pieces without the protocol", 412, "WRONG_VERSION", "POST", "/v1/uploads"),
    Bad(
        "an upload in pieces without a length",
        400,
        "INVALID_PARAMETER",
        path="/v1/uploads",
        send={"headers": {"tus-resumable": "1.0.0"}},
    ),
    Bad(
        "a piece of an unknown upload",
        404,
        "FILE_NOT_FOUND",
        "PATCH",
        "/v1/uploads/none",
        {
            "content": b"a",
            "headers": {
                "tus-resumable": "1.0.0",
                "upload-offset": "0",
                "content-type": "application/offset+octet-stream",
            },
        },
    ),
    Bad(
        "a form of another site",
        403,
        "ORIGIN_NOT_ALLOWED",
        path="/v1/files",
        send={"files": {"file": ("a.png", b"x")}, "headers": {"origin": "https://evil.example"}},
    ),
    Bad("another host", 403, "HOST_NOT_ALLOWED", "GET", "/v1/jobs", {"headers": {"host": "evil.example"}}),
    Bad(
        "a body that is too large",
        413,
        "BODY_TOO_LARGE",
        send={"content": b"x" * 200_000, "headers": {"content-type": "application/json"}},
    ),
)
