"""Reads a file of jobs, one on each line, and makes more of them: for prompts, grids of values and seeds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .job_request import JobRequest, spec_of
from .specs import JobSpec

_NAME = re.compile(r"[\w-][\w.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A job of a batch: the line of its file, counted from 1, the name of its clip, and what to make.

    ``what`` names it on the contact sheet.
    """

    line: int
    name: str
    what: str
    spec: JobSpec

    @property
    def id(self) -> str:
        """The id of the job, the same in each run of the same batch, and another one if it is changed."""
        text = json.dumps([self.name, self.spec.json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def file(self) -> str:
        """Name of the file of its clip."""
        return f"{self.name}.{self.spec.clips[0].suffix}"


@dataclass(frozen=True, kw_only=True)
class Variants:
    """What each line is made for: every prompt, every value of every grid and every seed.

    Empty tuples leave what the line says. A grid is the name of a field of the request and its values.
    """

    prompts: Sequence[str] = ()
    grids: Sequence[tuple[str, Sequence[Any]]] = ()
    seeds: Sequence[int] = ()

    def fields(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the suffix of a name, and the fields of the request that replace those of the line."""
        prompts: list[tuple[str, dict[str, Any]]] = [
            (f"_p{number:02d}", {"prompt": prompt}) for number, prompt in enumerate(self.prompts, start=1)
        ] or [("", {})]
        grids = [[(f"_{name}{value}", {name: value}) for value in values] for name, values in self.grids]
        seeds: list[tuple[str, dict[str, Any]]] = [(f"_seed{seed}", {"seed": seed}) for seed in self.seeds]
        for parts in product(prompts, *grids, seeds or [("", {})]):
            suffix = re.sub(r"[^\w.-]", "-", "".join(text for text, _ in parts))
            yield suffix, {name: value for _, fields in parts for name, value in fields.items()}


@dataclass(frozen=True)
class LocalFiles:
    """Files that the jobs of a batch name, relative to ``folder``, that of the file of jobs."""

    folder: Path

    def input(self, name: str) -> Path:
        """The path of an input. Raises ValueError if there is no such file."""
        path = (self.folder / name).resolve()
        if not path.exists():
            raise ValueError(f"there is no file {path}")
        return path

    def lora(self, name: str) -> Path:
        """The path of a LoRA. Raises ValueError if there is no such file."""
        return self.input(name)


def read_jobs(path: Path, default_model: str, variants: Variants) -> list[BatchJob]:
    """Read the jobs of a file; ``default_model`` is the id of the model of lines that name none.

    Each line is the body of ``POST /v1/jobs``, with a ``name`` for its clip if it has one. Empty lines and
    those that begin with # are skipped. Raises ValueError that names the line for a wrong one, and for two
    clips of one name.
    """
    jobs: list[BatchJob] = []
    files = LocalFiles(path.parent.resolve())
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                jobs += _jobs_of(number, json.loads(line), default_model, variants, files)
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"{path} line {number}: {_told(error)}") from error
    if not jobs:
        raise ValueError(f"{path} holds no job: write one on each line, as JSON")
    names = [job.file for job in jobs]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise ValueError(f"{path}: two clips would be called {twice}: give the lines another name")
    return jobs


def _jobs_of(
    number: int, line: Any, default_model: str, variants: Variants, files: LocalFiles
) -> Iterator[BatchJob]:
    if not isinstance(line, Mapping):
        raise ValueError('it must be an object, such as {"request": {"prompt": "a ball"}}')
    values = {"model": default_model, "request": {}, **line}
    name = values.pop("name", f"{number:04d}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r:.120} must be letters, digits, - and _")
    if not isinstance(values["request"], Mapping):
        raise ValueError("request must be an object")
    for suffix, fields in variants.fields():
        body = JobRequest.model_validate({**values, "request": {**values["request"], **fields}})
        # A drawn seed would make another job of each run.
        if body.request.get("seed", 0) == -1:
            raise ValueError("seed -1 draws another clip in each run: write the seed, or --seeds")
        shown = {**fields, "prompt": str(body.request.get("prompt"))[:120]}
        what = ", ".join(f"{key} {value}" for key, value in shown.items())
        yield BatchJob(line=number, name=f"{name}{suffix}", what=what, spec=spec_of(body, files))


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error}"
    return str(error)
