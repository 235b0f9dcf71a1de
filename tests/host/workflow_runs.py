"""Runs shipped workflows, each once a session, with a look at what passes between their nodes.

They run on the trained tiny set where there is one (the embedded set, or the folder LTX2_TRAINED_SET), so
that tests can measure the content; without one they run on random weights, and those are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from host_server import Json, Result, Server
from safetensors.torch import load_file, save_file
from saved import Decoded, decoded, saved_video
from torch import Tensor
from workflow_edit_tables import EDITING
from workflow_format import Workflow
from workflow_long_tables import LONG
from workflow_tables import WORKFLOWS

from ltx2_core.tiny import embedded_dir
from ltx2_core.tiny.write import TinySet
from ltx2_core.training.world import Measured, measure

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"
TABLES: dict[str, Workflow] = {**WORKFLOWS, **EDITING, **LONG}
MODEL_FILES = ("ckpt_name", "text_encoder", "upscaler", "lora")
Watch = dict[str, dict[str, str]]
"""What to look at: dump name -> input of the probe -> output of a node, as in the tables."""


def trained_set() -> Path | None:
    """The folder of a trained tiny set, laid out like ComfyUI's ``models``."""
    folder = Path(os.environ.get("LTX2_TRAINED_SET", embedded_dir()))
    return folder if TinySet.in_folder(folder).distilled.exists() else None


def prompt_of(name: str) -> Json:
    return json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))


@dataclass
class Ran:
    """One workflow that has run."""

    result: Result
    trained: bool
    _clip: list[Decoded] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return saved_video(self.result)

    @property
    def clip(self) -> Decoded:
        if not self._clip:
            self._clip.append(decoded(self.path))
        return self._clip[0]

    def seen(self) -> Measured:
        """Content of the saved file, measured; skips the test if the weights are random."""
        if not self.trained:
            pytest.skip("the embedded set is of random weights; what it draws means nothing")
        sound = self.clip.sound
        return measure(self.clip.frames, sound, self.clip.rate, self.clip.fps)

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return self.result.tensors(name)


class Runs:
    """Runs workflows of the folder in a host."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._known: Json = {}
        self._ran: dict[str, Ran] = {}
        for file in (EXAMPLES / "input").iterdir():
            shutil.copy(file, server.base / "input" / file.name)
        trained = trained_set()
        self.trained = trained is not None
        if trained is not None:
            for folder in trained.iterdir():
                shutil.copytree(folder, server.base / "models" / folder.name / "trained", dirs_exist_ok=True)
        self.half_size_lora = "ic.safetensors"
        """An IC-LoRA whose metadata says that its reference video has half the output's size."""
        if trained is not None:
            self.half_size_lora = "trained/half-size.safetensors"
            tensors = load_file(TinySet.in_folder(trained).edges)
            path = server.base / "models" / "loras" / self.half_size_lora
            save_file(tensors, path, {"reference_downscale_factor": "2"})
            self._wait_for_list()

    def _wait_for_list(self) -> None:
        """Wait until the host lists the new files: for half a second it answers with an earlier list."""
        end = time.monotonic() + 60
        while not all(
            any("trained" in one for one in self._names(kind)) for kind in ("loras", "checkpoints")
        ):
            assert time.monotonic() < end, "the host does not list the trained set"
            time.sleep(0.2)

    def _names(self, kind: str) -> list[str]:
        names: list[str] = self.server.get(f"/models/{kind}")
        return names

    def prompt(self, name: str) -> Json:
        """The workflow in API format, on the set that tests look at."""
        graph = prompt_of(name)
        for node in graph.values():
            for one, value in node["inputs"].items():
                if self.trained and one in MODEL_FILES and isinstance(value, str) and value != "none":
                    node["inputs"][one] = f"trained/{value}"
        return graph

    def watched(self, name: str, graph: Json) -> Json:
        """The graph with a probe for everything that is looked at."""
        self._known = self._known or self.server.get("/object_info")
        for dump, what in WATCHED.get(name, {}).items():
            links = {one: TABLES[name].link(at, one, self._known) for one, at in what.items()}
            graph[f"watch {dump}"] = {"class_type": "LTX2ProbeDump", "inputs": {"name": dump, **links}}
        return graph

    def run(self, name: str, **changes: Any) -> Ran:
        """Run a workflow; ``changes`` are inputs by node of its table, such as ``voice={"audio": ...}``."""
        key = json.dumps([name, changes])
        if key not in self._ran:
            graph = self.prompt(name)
            ids = {one: str(number) for number, one in enumerate(TABLES[name].nodes, start=1)}
            for node, inputs in changes.items():
                graph[ids[node]]["inputs"] |= inputs
            result = self.server.run(self.watched(name, graph), timeout_s=400)
            self._ran[key] = Ran(result, self.trained)
        return self._ran[key]


WATCHED: dict[str, Watch] = {
    "image_to_video_two_stages": {"given": {"latent": "again"}, "made": {"latent": "second"}},
    "image_to_video_distilled": {"given": {"latent": "next.latent"}, "made": {"latent": "second"}},
    "audio_to_video": {
        "given": {"latent": "given.latent", "audio": "given.audio"},
        "made": {"latent": "second"},
    },
    "audio_image_to_video": {
        "given": {"latent": "given.latent", "audio": "given.audio"},
        "made": {"latent": "first"},
    },
    "first_last_frame": {
        "guided": {"latent": "guides.latent", "conditioning": "guides.positive"},
        "made": {"latent": "cropped.latent", "conditioning": "cropped.positive"},
    },
    "keyframes_two_stages": {
        "guided": {"latent": "next.latent", "conditioning": "next.positive"},
        "sampled": {"latent": "second"},
        "made": {"latent": "cropped.latent"},
    },
    "reference_audio": {"made": {"latent": "first"}},
    "extend_video": {
        "source": {"image": "clip.images", "audio": "clip.audio"},
        "made": {"image": "video.images", "audio": "video.audio"},
    },
    "retake_two_stages": {
        "source": {"image": "clip.images", "audio": "clip.audio"},
        "made": {"image": "video.images", "audio": "video.audio"},
    },
    "mask_past_the_end": {"given": {"latent": "edit.latent"}, "made": {"latent": "first"}},
    "video_to_audio": {
        "source": {"image": "clip.images"},
        "given": {"latent": "edit.latent"},
        "sampled": {"latent": "first"},
        "made": {"image": "video.images", "audio": "video.audio"},
    },
    "video_to_video": {"given": {"latent": "given.latent"}, "made": {"latent": "first"}},
    "ic_lora_control": {
        "guided": {"latent": "guide.latent", "conditioning": "guide.positive"},
        "sampled": {"latent": "first"},
        "made": {"latent": "cropped.latent", "conditioning": "cropped.positive"},
    },
    "ic_lora_canny": {"edges": {"image": "edges"}},
    "ic_lora_two_stages": {
        "guided": {"latent": "guide.latent"},
        "made": {"latent": "second"},
    },
    "ic_lora_image": {
        "guided": {"latent": "guide.latent", "conditioning": "guide.positive"},
        "sampled": {"latent": "first"},
    },
    "ic_lora_union": {
        "guided": {"latent": "guide.latent", "conditioning": "guide.positive"},
        "made": {"latent": "cropped.latent"},
    },
}
