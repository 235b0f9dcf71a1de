"""Runs work in a process of its own that reports its events, and can be killed at any of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3TextModel  # noqa: F401 imported once, by the server of processes

import ltx2_core.cli.main
from ltx2_core.media import VideoWriter
from ltx2_core.run.pipeline import LTX2Pipeline
from ltx2_core.storage import writing
from ltx2_core.text.gemma import Gemma
from ltx2_core.trainer.trainer import Trainer
from ltx2_core.training import loop
from ltx2_core.transformer import Runner


@dataclass(frozen=True)
class Ran:
    """The exit code of a process, negative for a signal; its events in order; what it printed."""

    code: int
    events: list[str]
    output: str


def run(
    work: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    kill_at: int | str | None = None,
    after: str = "kill",
) -> Ran:
    """``work(*arguments)`` with its temporary files in ``folder``; at event number ``kill_at`` it is killed.

    Text in place of the number is the first event of that name.

    With ``after="interrupt"`` it gets SIGINT, as by Ctrl+C, instead of SIGKILL. An event of writing a file is
    killed half way through.
    """
    folder.mkdir(exist_ok=True)
    log, printed = folder.parent / f"{folder.name}.events", folder.parent / f"{folder.name}.printed"
    for path in (log, printed):
        path.write_text("")
    # A server without threads, which a fork would lose in mid-work, has the imports: they take longer than
    # most runs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # The server imports by its own path, which lacks this folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = context.Process(target=_child, args=(work, arguments, folder, log, printed, kill_at, after))
    process.start()
    process.join(timeout=1800)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"still running after {log.read_text()}")
    assert process.exitcode is not None
    return Ran(process.exitcode, log.read_text().split("\n")[:-1], printed.read_text())


def ltx2(*words: object) -> None:
    """The command ``ltx2``; ends the process with its exit code."""
    ltx2_core.cli.main.main([str(word) for word in words])


def train(path: Path) -> None:
    """Train a small network for twelve steps, saving its state after each."""
    model = torch.nn.Linear(8, 8)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, generator=generator)

    def step(network: torch.nn.Module, generator: torch.Generator, _step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(16, 8, generator=generator)
        return {"loss": (network(x) - x.flip(1)).square().mean()}

    loop.train(
        step,
        model,
        torch.optim.AdamW(model.parameters(), lr=0.02),
        loop.warmup_stable_decay(12, warmup=3),
        path,
        total_steps=12,
        seed=3,
        options=loop.LoopOptions(progress=False, save_every_s=0, log_every_s=0, ema=0.9),
    )


def spread(events: list[str], count: int) -> list[int]:
    """``count`` event numbers: the first of each name, then evenly over the rest."""
    firsts = sorted({name: number for number, name in reversed(list(enumerate(events)))}.values())
    rest = [number for number in range(len(events)) if number not in firsts]
    more = count - len(firsts)
    if more > 0 and rest:
        firsts += rest[:: max(1, len(rest) // more)][:more]
    return sorted(firsts)


def _child(
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    log: Path,
    printed: Path,
    kill_at: int | str | None,
    after: str,
) -> None:
    # The tests' own settings of pytest for output end here.
    descriptor = os.open(printed, os.O_WRONLY | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    tempfile.tempdir = os.fspath(folder)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _Events(os.open(log, os.O_WRONLY | os.O_TRUNC), kill_at, after).watch()
    work(*arguments)


class _Events:
    """Writes the names of events to a file, and ends the process at one of them."""

    def __init__(self, log: int, kill_at: int | str | None, after: str) -> None:
        self.log, self.kill_at, self.after, self.count = log, kill_at, after, 0

    def reached(self, name: str) -> bool:
        """Record an event; returns whether the process must end at it."""
        ends = self.kill_at in (self.count, name)
        self.count += 1
        os.write(self.log, f"{name}\n".encode())
        return ends

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGINT if self.after == "interrupt" else signal.SIGKILL)

    def on(self, name: str) -> None:
        if self.reached(name):
            self.end()

    def watch(self) -> None:
        """Wrap the functions whose calls are events."""
        for owner, attribute, name in (
            (Gemma, "forward", "text"),
            (Runner, "__call__", "step"),
            (Trainer, "step", "training step"),
            (LTX2Pipeline, "encode_video", "video in"),
            (LTX2Pipeline, "encode_audio", "audio in"),
            (LTX2Pipeline, "upsample", "upsample"),
            (LTX2Pipeline, "decode_audio", "decode audio"),
            (VideoWriter, "write_frames", "encode"),
            (VideoWriter, "write_audio", "encode audio"),
            (VideoWriter, "_finish", "flush"),
            (Path, "unlink", "unlink"),
        ):
            setattr(owner, attribute, self._wrapped(getattr(owner, attribute), name))
        LTX2Pipeline.decode_video = self._chunks(LTX2Pipeline.decode_video)  # type: ignore[method-assign]
        Path.replace = self._renaming(Path.replace)  # type: ignore[method-assign]
        writing.write_safetensors = self._writing(writing.write_safetensors)

    def _wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.on(name)
            return call(*arguments, **options)

        return watched

    def _chunks(self, decode: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
            for chunk in decode(*arguments, **options):
                self.on("decode")
                yield chunk

        return watched

    def _renaming(self, replace: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Path, target: Any) -> Any:
            self.on("rename")
            result = replace(path, target)
            self.on("renamed")
            return result

        return watched

    def _writing(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Path, entries: Any, metadata: Any) -> None:
            ends = self.reached("write")
            save(path, entries, metadata)
            if ends:
                os.truncate(path, path.stat().st_size // 2)
                self.end()

        return watched
