"""Datasets, runs and clips of the training benchmark, in a folder in which all of them are resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from semantic_bench import Bench, Files, Settings
from training_clips import FRAMES, HEIGHT, WIDTH, Sample, rings_on, write_dataset

from ltx2_core import LTX2Pipeline
from ltx2_core.tiny import embedded_set
from ltx2_core.training.world import OUTLINES, Clip, Measured, Outline, agreement, measure

HERE = Path(__file__).resolve().parents[1]
WORDS = ("colour", "background", "motion", "kind", "sound")


@dataclass(frozen=True)
class Shown:
    """What a generated clip has: the words of its prompt that are right, and what the base does not know."""

    right: dict[str, bool]
    background: str
    colour: str
    bell: bool


class Work:
    """The folder of the benchmark; ``clips`` is how many held-out prompts judge a LoRA."""

    def __init__(self, folder: Path, *, clips: int, steps: int, threads: int, scale: float) -> None:
        self.folder, self.clips, self.steps, self.threads, self.scale = folder, clips, steps, threads, scale
        tiny = embedded_set()
        files = Files(
            checkpoints=(tiny.checkpoint,),
            text_encoder=tiny.text_encoder,
            upscaler=None,
            distilled=None,
            edges=None,
        )
        settings = Settings(clips=clips, width=WIDTH, height=HEIGHT, frames=FRAMES, steps=steps, cfg=4.0)
        self.bench = Bench(files, settings)

    def encoded(
        self, name: str, samples: Callable[[], Iterator[Sample]], *options: str, audio: bool = True
    ) -> Path:
        """Write a dataset and encode it with ``ltx2 dataset``; returns the encoded one."""
        source = write_dataset(self.folder / "clips" / name, samples(), audio=audio)
        out = self.folder / "encoded" / name
        if not (out / "dataset.json").is_file():
            self._run("dataset", str(source), "--out", str(out), "--buckets", "128x128x25", *options)
        return out

    def trained(self, name: str, dataset: Path, steps: int, **settings: Any) -> Path:
        """Train a LoRA with ``ltx2 train lora``, or resume it; returns its file."""
        out = self.folder / "runs" / name
        words = ["train", "lora", "-q", "--dataset", str(dataset), "--output-dir", str(out)]
        values = {
            "steps": max(1, round(steps * self.scale)),
            "rank": 16,
            "batch_size": 8,
            "targets": ["attention+ff"],
            "gradient_checkpointing": False,
            "device": "cpu",
            "validation_every": 0,
            "save_every": 50,
            "keep_last": 1,
            **settings,
        }
        for key, value in values.items():
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [
                    w for one in (value if isinstance(value, list) else [value]) for w in (flag, str(one))
                ]
        if not (out / "lora.safetensors").is_file():
            self._run(*words)
        return out / "lora.safetensors"

    def pipeline(self, lora: Path | None, checkpoint: Path | None = None) -> LTX2Pipeline:
        if lora is None and checkpoint is None:
            return self.bench.pipeline
        tiny = embedded_set()
        return LTX2Pipeline(
            checkpoint or tiny.checkpoint,
            text_encoder=tiny.text_encoder,
            loras=[] if lora is None else [lora],
            keep_loaded=True,
        )

    def shown(
        self,
        clips: Sequence[Clip],
        pipeline: LTX2Pipeline,
        captions: Sequence[str] | None = None,
        outlines: Mapping[str, Outline] = OUTLINES,
    ) -> list[Shown]:
        """Generate each of ``clips`` from its caption, or from ``captions``, and measure what is there.

        ``outlines`` are the shapes that it may show.
        """
        texts = captions or [clip.caption for clip in clips]
        found = []
        for number, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            frames, waveform, rate = self.bench.frames_and_audio(clip, number, pipeline, prompt=text)
            found.append(judged(clip, measure(frames, waveform, rate, outlines=outlines)))
        return found

    def reconstructed(self, clips: Sequence[Clip], outlines: Mapping[str, Outline]) -> list[Shown]:
        """Measure ``clips`` as the video VAE shows them, which no LoRA can surpass."""
        frames = ((clip, self.bench.reconstruct(clip)) for clip in clips)
        return [judged(clip, measure(shown, None, outlines=outlines)) for clip, shown in frames]

    @cached_property
    def base(self) -> list[Shown]:
        """What the model shows without a LoRA for the ordinary held-out prompts; measured once."""
        return self.once("base", lambda: self.shown(self.bench.truths, self.bench.pipeline))

    def once(self, name: str, measure_them: Callable[[], list[Shown]]) -> list[Shown]:
        """What ``measure_them`` returns, from a file if it was measured before."""
        path = self.folder / f"{name.replace(' ', '_')}_{self.clips}_{self.steps}.json"
        if not path.is_file():
            path.write_text(json.dumps([vars(one) for one in measure_them()]))
        return [Shown(**one) for one in json.loads(path.read_text())]

    def in_fp8(self) -> Path:
        """The checkpoint with the large layers of its transformer in fp8."""
        path = self.folder / "fp8.safetensors"
        if not path.is_file():
            self._run("convert", str(self.bench.files.checkpoints[0]), str(path), "--fp8")
        return path

    def lost(self, shown: Sequence[Shown], words: Sequence[str] = WORDS) -> float:
        """Points by which the word that lost most is right less often than without the LoRA."""
        return max(rate(self.base, word) - rate(shown, word) for word in words)

    def _run(self, *words: str) -> None:
        command = [sys.executable, "-m", "ltx2_core.cli.main", *words]
        environment = {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": str(self.threads)}
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[:2])}: {done.stderr.strip()[-400:]}")


def judged(clip: Clip, measured: Measured) -> Shown:
    right = agreement(measured, clip.truth)._asdict()
    return Shown(
        right={word: bool(right[word]) for word in WORDS},
        background=str(measured.background),
        colour=str(measured.colours[0]) if measured.colours else "",
        bell=rings_on(measured.audio),
    )


def rate(shown: Sequence[Shown], word: str) -> float:
    """Per cent of clips in which a word of the prompt is right."""
    return percent([one.right[word] for one in shown])


def percent(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / max(1, len(hits))
