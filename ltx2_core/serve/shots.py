"""Shot lists of clients: the fields of a request, with the files as clients name them."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import Tensor

from ..conditioning.inputs import ImageAt, VideoReference
from ..editing.shots import retake_of
from ..run.flat_options import RequestFields
from ..run.request_json import from_json
from ..run.shots import parse_shots
from ..run.shots.mapping import checked_name
from ..run.shots.request import request_of
from ..storage.files import JsonObject, ParsedJson
from .job_request import JobArguments
from .models import Checkers
from .roots import UPLOADS, Roots
from .uploads import Uploads

_FLOAT_WAV = 3
"""The code in the header of a WAV file for samples that are 32-bit floats."""


@dataclass(frozen=True)
class Listed:
    """The content of a shot list: ``fields`` of a request in JSON, and pairs (file, strength) of LoRAs.

    ``stage2_loras`` are added in the second stage. ``edit`` are fields of a job that regenerates seconds of a
    source: its command, source and arguments.
    """

    fields: JsonObject
    loras: tuple[tuple[str, float], ...]
    stage2_loras: tuple[tuple[str, float], ...]
    edit: Mapping[str, Any]


def listed(
    shots: ParsedJson,
    fields: ParsedJson,
    *,
    model: str,
    checkers: Checkers,
    roots: Roots,
    uploads: Uploads,
) -> Listed:
    """Convert a shot list for the model with the id ``model``; ``fields`` of a request replace its values.

    Pieces of audio that have to be mixed become a file of the uploads. Raises ValueError for a list that is
    not one or does not fit the clip, and for files that no client may read; :class:`NoRoom` without room for
    the mixed audio.
    """
    whole = parse_shots(json.dumps(shots))
    # Before any audio is mixed and stored.
    for number, lora in enumerate(whole.loras, start=1):
        if lora.audio is not None:
            raise ValueError(f"shots: loras {number}: a job has one strength of a LoRA: leave audio out")
    names: dict[str, str] = {}

    def find(name: str) -> str:
        path = str(roots.input(checked_name(name)))
        # Of a file that was fetched by its URL this is the name among the uploads.
        names[path] = roots.shown(path)
        return path

    # A request needs a prompt, which here is usually that of the list.
    written: Any = from_json({"prompt": whole.prompt, **fields})
    own = {name: value for name, value in written.items() if name in fields}
    edit: dict[str, Any] = {}
    made: RequestFields
    with checkers.lock:
        pipeline = checkers.pipeline(model)
        if whole.source is None:
            made, _ = request_of(whole, pipeline, cast(RequestFields, own), find)
        else:
            retake = retake_of(whole, find, own, numerics=pipeline.numerics)
            made = {**retake.fields, "prompt": retake.prompt}
            # As a client states it: files by the names that it gave them.
            arguments = JobArguments.model_validate(_plain(retake.own, names, uploads))
            edit = {"command": "retake", "source": names[str(retake.source)], "arguments": arguments}
    values: JsonObject = {**fields}
    for name, value in made.items():
        if name not in fields:
            values[name] = _plain(value, names, uploads)
    loras = [(lora.stage, (lora.file, lora.strength)) for lora in whole.loras]
    return Listed(
        fields=values,
        loras=tuple(pair for stage, pair in loras if stage is None),
        stage2_loras=tuple(pair for stage, pair in loras if stage is not None),
        edit=edit,
    )


def _plain(value: Any, names: ParsedJson, uploads: Uploads) -> Any:
    """A value of a request as JSON, with the names that clients gave files."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        waveform, rate = value
        content = _wav(waveform, rate)
        return f"{UPLOADS}/{uploads.add(io.BytesIO(content), len(content), '.wav')}"
    if isinstance(value, tuple | list):
        return [_plain(one, names, uploads) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one, names, uploads) for name, one in value.items()}
    if isinstance(value, ImageAt | VideoReference):
        return _plain(asdict(value), names, uploads)
    return value


def _wav(waveform: Tensor, rate: int) -> bytes:
    """A WAV file of ``waveform`` (C, S) in float32, which loses nothing, at ``rate`` samples a second."""
    data = waveform.T.contiguous().float().numpy().tobytes()
    frame = 4 * len(waveform)
    form = struct.pack("<HHIIHH", _FLOAT_WAV, len(waveform), rate, rate * frame, frame, 32)
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content
        for name, content in ((b"fmt ", form), (b"data", data))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
