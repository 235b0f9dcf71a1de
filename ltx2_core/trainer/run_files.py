"""The files of a run: its settings, log, state, and the weights that it saves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..media.atomic import replacing
from ..storage.files import read_object

RUN, LOG, STATE, CURVES = "run.json", "log.jsonl", "state.safetensors", "curves.png"


class RunFiles:
    """The folder of a run; ``result`` begins the names of its files of weights."""

    def __init__(self, folder: Path, result: str = "lora") -> None:
        self.folder, self.result = folder, result

    @property
    def state(self) -> Path:
        return self.folder / STATE

    @property
    def final(self) -> Path:
        """The weights at the end of the run."""
        return self.folder / f"{self.result}.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the lowest loss of held-out clips."""
        return self.folder / f"{self.result}_best.safetensors"

    @property
    def curves(self) -> Path:
        return self.folder / CURVES

    def weights(self, step: int) -> Path:
        """The weights that are saved after ``step`` steps."""
        return self.folder / "checkpoints" / f"{self.result}_step_{step:06d}.safetensors"

    def preview(self, step: int, number: int) -> Path:
        """The clip of prompt ``number``, from 1 on, after ``step`` steps."""
        return self.folder / "previews" / f"step_{step:06d}_{number}.mp4"

    def comparison(self, step: int) -> Path:
        """The image of the previews after ``step`` steps and those of the untrained model."""
        return self.folder / "previews" / f"step_{step:06d}.png"

    def begin(
        self, lasting: Mapping[str, Any], defaults: Mapping[str, Any], unknown: Collection[str] = ()
    ) -> None:
        """Write the settings that change the weights, or compare them with those of the run that is resumed.

        A setting that the resumed run does not have, since an older version began it, was its value in
        ``defaults``. Names in ``unknown`` are not compared. Raises ValueError that names what differs, and
        for a state whose settings are not there.
        """
        path = self.folder / RUN
        if self.state.is_file():
            if not path.is_file():
                raise ValueError(
                    f"{self.folder} has {STATE} and no {RUN}, so that nothing tells whether it is the state "
                    "of this run. Use another output_dir, or delete that folder"
                )
            before = {**defaults, **read_object(path)}
            names = {*before, *lasting} - {*unknown}
            differing = sorted(n for n in names if before.get(n) != lasting.get(n))
            if differing:
                told = ", ".join(f"{n} was {before.get(n)!r}, is {lasting.get(n)!r}" for n in differing)
                raise ValueError(
                    f"{self.folder} holds another run: {told}. Use another output_dir, or delete that folder"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(lasting, indent=1), encoding="utf-8")
        (self.folder / LOG).unlink(missing_ok=True)

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to the log."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop lines of steps after ``step``, which a resumed run does again."""
        path = self.folder / LOG
        if not path.is_file():
            return
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                # The last line of a run that was killed may be cut.
                continue
            if isinstance(values, dict) and values.get("step", math.inf) <= step:
                lines.append(line)
        with replacing(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def forget_old(self, keep: int) -> None:
        """Delete all but the last ``keep`` saved files; 0 keeps all. The final one is never deleted."""
        saved = sorted(self.weights(0).parent.glob(f"{self.result}_step_*.safetensors"), key=_step)
        for path in saved[:-keep] if keep else []:
            path.unlink()


def _step(path: Path) -> int:
    found = re.search(r"(\d+)$", path.stem)
    return int(found[1]) if found else 0
