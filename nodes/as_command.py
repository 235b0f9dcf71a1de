"""A graph as a line of the command ltx2, and as Python: what neither can say is always named."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Inputs = Mapping[str, Any]
Setting = tuple[str, str, Any]
"""Flag of the command, keyword of the library, value."""

_MODEL = "by the model"
_ABOVE = "as above"
_LOADERS = ("LoadAll", "LoadCheckpoint", "LoadTextEncoder", "LoadUpscaler")
_FILES = (
    ("--checkpoint", "", "ckpt_name"),
    ("--text-encoder", "text_encoder", "text_encoder"),
    ("--upscaler", "upscaler", "upscaler"),
)
_KNOWN = re.compile(
    r"LTX2AV(Load(All|Checkpoint|TextEncoder|Upscaler|Lora)|ClipPlan|MemoryPlan|Prompt(ByTime)?|ImgToVideoInplace"
    r"|AddGuide|CropGuides|SampleStage|NextStage|LatentUpscale|Decode(Video|Audio|ToVideo))"
    r"|LoadImage|SaveVideo|CreateVideo|Preview\w+"
)
"""Nodes that are read below, or that a command does anyway."""
_SHOTS = (
    "save the text of LTX-2 Shot List as shots.json and run ltx2 generate --shots shots.json --numerics comfy"
)


@dataclass(eq=False)
class Node:
    """One node of a graph in API format."""

    kind: str
    inputs: Inputs


@dataclass(frozen=True)
class Written:
    """A graph as text: ``command`` and ``python`` are "" where there is none, and ``problems`` say why."""

    command: str = ""
    python: str = ""
    problems: tuple[str, ...] = ()


def written_as(prompt: Mapping[str, Any]) -> Written:
    """Write a graph in API format as a command and as Python.

    Raises ValueError for values that are no graph.
    """
    graph = Graph.read(prompt)
    if graph.all("ShotList"):
        return Written(problems=(_SHOTS,))
    unknown = (node.kind for node in graph.nodes.values() if not _KNOWN.fullmatch(node.kind))
    graph.problems += [f"{kind} has no counterpart in one command" for kind in unknown]
    if len(graph.stages) not in (1, 2):
        graph.problems.append(f"{len(graph.stages)} sampling stages: ltx2 generate has one or two")
    if graph.problems:
        return Written(problems=tuple(graph.problems))
    models, settings = list(_models(graph)), list(_settings(graph))
    if not graph.problems:
        linked = [flag for flag, _, value in (*models, *settings) if _has_link(value)]
        graph.problems += [f"{flag} comes by a link" for flag in linked]
    if graph.problems:
        return Written(problems=tuple(graph.problems))
    # A preset is an option of the command alone.
    preset = any(flag == "--preset" for flag, _, _ in settings)
    return Written(_command(models, settings), "" if preset else _python(models, settings))


@dataclass
class Graph:
    """The nodes of a graph, its sampling stages with the first one first, and what stands in the way."""

    nodes: Mapping[str, Node]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, prompt: Mapping[str, Any]) -> Graph:
        """Raises ValueError for values that are no graph in API format."""
        try:
            return cls(
                {name: Node(str(one["class_type"]), dict(one["inputs"])) for name, one in prompt.items()}
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                "this is no graph in API format: an object of nodes with class_type and inputs"
            ) from None

    def all(self, kind: str) -> list[Node]:
        """The nodes of one kind of this pack."""
        return [node for node in self.nodes.values() if node.kind == f"LTX2AV{kind}"]

    def above(self, inputs: Inputs) -> set[Node]:
        """Every node that leads to one with ``inputs``."""
        found: set[Node] = set()
        waiting = [inputs]
        while waiting:
            for value in waiting.pop().values():
                source = self.source(value)
                if source is not None and source not in found:
                    found.add(source)
                    waiting.append(source.inputs)
        return found

    def source(self, value: object) -> Node | None:
        """The node that an input is linked to."""
        return self.nodes.get(str(value[0])) if isinstance(value, list) and value else None

    @property
    def stages(self) -> list[Node]:
        stages = self.all("SampleStage")
        return sorted(stages, key=lambda one: len(self.above(one.inputs).intersection(stages)))


def _models(graph: Graph) -> Iterator[Setting]:
    files: dict[tuple[str, str], Setting] = {}
    for node in (one for kind in _LOADERS for one in graph.all(kind)):
        for flag, keyword, name in _FILES:
            # A text encoder in the files of Hugging Face is named by its folder.
            file = re.sub(r"/model[^/]*\.safetensors$", "", str(node.inputs.get(name) or "none"))
            if file != "none":
                files[flag, file] = (flag, keyword, file)
        for name in ("video_vae", "audio_vae", "text_parts"):
            part = node.inputs.get(name)
            if isinstance(part, str) and re.search(r"\.\w+$", part):
                files["--checkpoint", part] = ("--checkpoint", "", part)
    yield from files.values()
    above = [graph.above({"model": stage.inputs.get("model")}) for stage in graph.stages]
    for lora in graph.all("LoadLora"):
        if not any(lora in nodes for nodes in above):
            continue
        if lora.inputs.get("audio_strength"):
            graph.problems.append("a LoRA with an audio strength of its own")
        if lora not in above[-1]:
            graph.problems.append("a LoRA of the first stage alone")
        by_model = lora.inputs.get("distilled_strength") == _MODEL
        recipe = by_model and re.search("distilled", str(lora.inputs.get("lora")), re.IGNORECASE)
        strength = "recipe" if recipe else lora.inputs.get("strength")
        flag, keyword = ("--lora", "loras") if lora in above[0] else ("--stage2-lora", "stage2_loras")
        yield flag, keyword, (lora.inputs.get("lora"), strength)
    yield "--numerics", "numerics", "comfy"


def _settings(graph: Graph) -> Iterator[Setting]:
    yield from _texts(graph)
    yield from _clip(graph)
    yield from _images(graph)
    first, *later = (stage.inputs for stage in graph.stages)
    yield from _sampling(graph, first)
    for inputs in later:
        own = (
            not str(inputs.get("schedule")).startswith("second stage")
            or inputs.get("cfg") != 1
            or inputs.get("audio_cfg") not in (None, 0, 1)
            or inputs.get("preset", _ABOVE) != _ABOVE
        )
        if own:
            graph.problems.append("a schedule, cfg or preset in the second stage")
        if inputs.get("sampler", _MODEL) != _MODEL:
            yield "--stage2-sampler", "stage2_sampler", inputs["sampler"]


def _texts(graph: Graph) -> Iterator[Setting]:
    nodes = [*graph.all("Prompt"), *graph.all("PromptByTime")]
    if len(nodes) > 1:
        graph.problems.append("several prompts")
    inputs = nodes[0].inputs if nodes else {}
    timed = "parts" in inputs
    text, negative = inputs.get("prompt" if timed else "positive"), inputs.get("negative")
    if not isinstance(text, str) or not isinstance(negative, str):
        graph.problems.append("the prompt comes by a link")
    yield "--prompt", "prompt", text
    yield "--negative", "negative_prompt", negative
    if timed:
        yield "--prompts-at", "prompts_at", inputs["parts"]
        method = inputs.get("method", "separate")
        yield "--prompt-method", "prompt_method", method
        # With the other methods the widget has no effect, and the option is refused.
        if method == "separate":
            yield "--prompt-fade", "prompt_fade", inputs.get("fade")


def _clip(graph: Graph) -> Iterator[Setting]:
    plans = graph.all("ClipPlan")
    if len(plans) != 1:
        graph.problems.append("there is not one LTX-2 Clip Plan")
        return
    inputs = plans[0].inputs
    width, height, length, fps = (inputs.get(name) for name in ("width", "height", "length", "fps"))
    unit = inputs.get("length_unit")
    if inputs.get("image"):
        graph.problems.append("the size follows an image: write width and height in LTX-2 Clip Plan")
    if unit == "auto" or any(isinstance(one, list) for one in (width, height, length, fps)):
        graph.problems.append("size or length come by a link")
    if inputs.get("batch_size", 1) != 1:
        graph.problems.append("several clips in one batch")
    yield "--width", "width", width
    yield "--height", "height", height
    yield ("--frames", "num_frames", length) if unit == "frames" else ("--seconds", "seconds", length)
    yield "--fps", "fps", fps
    yield "--snap", "snap", inputs.get("snap")
    yield "--stages", "stages", len(graph.stages)


def _images(graph: Graph) -> Iterator[Setting]:
    placed, stages = graph.all("ImgToVideoInplace"), graph.stages
    first = [node for node in placed if len(stages) == 1 or node in graph.above(stages[0].inputs)]
    ways = {json.dumps([node.inputs.get(one) for one in ("image", "strength", "crf")]) for node in placed}
    if len(first) > 1 or len(ways) > len(first):
        graph.problems.append("several first images")
    for inputs in (node.inputs for node in first[:1]):
        names = ("strength", "next_strength", "crf")
        strength, later, crf = (_number(graph, inputs, name) for name in names)
        if strength < 0 and not _has_link(inputs.get("strength")):
            graph.problems.append("an image strength by the model")
        yield "--image", "image", _file(graph, inputs)
        yield "--image-strength", "image_strength", strength
        if len(stages) > 1 and later >= 0:
            yield "--stage2-image-strength", "stage2_image_strength", later
        if crf >= 0:
            yield "--image-crf", "image_crf", crf
    for inputs in (node.inputs for node in graph.all("AddGuide")):
        crf, attention, downscale = (
            _number(graph, inputs, name) for name in ("crf", "attention_strength", "downscale")
        )
        if crf >= 0 or attention > 0 or downscale > 1:
            graph.problems.append("a guide with crf, attention or downscale of its own")
        yield "--keyframe", "images", (_file(graph, inputs), inputs.get("frame"), inputs.get("strength"))


def _number(graph: Graph, inputs: Inputs, name: str) -> float:
    """A number among ``inputs``; -1 where there is none, and for a link, which is named."""
    value = inputs.get(name)
    if _has_link(value):
        graph.problems.append(f"{name} of an image comes by a link")
    return value if isinstance(value, int | float) else -1


def _has_link(value: object) -> bool:
    """Whether a value, or a part of it, is that of another node."""
    return isinstance(value, list) or (isinstance(value, tuple) and any(map(_has_link, value)))


def _file(graph: Graph, inputs: Inputs) -> object:
    source = graph.source(inputs.get("image"))
    if source is None or source.kind != "LoadImage":
        graph.problems.append("an image does not come from Load Image")
        return None
    return source.inputs.get("image")


def _sampling(graph: Graph, inputs: Inputs) -> Iterator[Setting]:
    if not isinstance(inputs.get("seed"), list):
        yield "--seed", "seed", inputs.get("seed")
    if inputs.get("preset", _ABOVE) != _ABOVE:
        yield "--preset", "preset", inputs["preset"]
        return
    schedule = inputs.get("schedule")
    if schedule == "distilled 8":
        yield "--distilled", "distilled", True
    elif schedule == "LTX-2 scheduler":
        yield "--steps", "steps", inputs.get("steps")
        yield "--cfg", "cfg", inputs.get("cfg")
        if inputs.get("audio_cfg"):
            yield "--audio-cfg", "audio_cfg", inputs["audio_cfg"]
    else:
        graph.problems.append(f"the schedule {schedule}")
    if inputs.get("sampler", _MODEL) != _MODEL:
        yield "--sampler", "sampler", inputs["sampler"]


def _command(models: Iterable[Setting], settings: Iterable[Setting]) -> str:
    words = ["ltx2", "generate"]
    for flag, keyword, value in (*models, *settings):
        words.append(flag)
        if keyword == "images":
            file, frame, strength = map(_plain, value)
            words.append(f"{file}@{frame}:{strength}")
        elif value is not True:
            words.append(":".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value))
    return shlex.join([*words, "-o", "clip.mp4"])


def _plain(value: object) -> str:
    """A value as it is typed: whole numbers without a point."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _python(models: Iterable[Setting], settings: Iterable[Setting]) -> str:
    loading: dict[str, list[str]] = {}
    for _, keyword, value in models:
        loading.setdefault(keyword, []).append(_literal(value))
    given = [*loading.get("", ())]
    given += [f"{name}={one}" for name in ("text_encoder", "upscaler") for one in loading.get(name, ())]
    lists = (name for name in ("loras", "stage2_loras") if name in loading)
    given += [f"{name}=[{', '.join(loading[name])}]" for name in lists]
    given.append("numerics=Numerics.COMFY")
    asked, at = [], []
    for _, keyword, value in settings:
        if keyword == "images":
            file, frame, strength = map(_literal, value)
            at.append(f"ImageAt(source={file}, frame={frame}, strength={strength})")
        else:
            asked.append(_literal(value) if keyword == "prompt" else f"{keyword}={_literal(value)}")
    if at:
        asked.append(f"images=({', '.join(at)},)")
    lines = ["from ltx2_core import LTX2Pipeline", "from ltx2_core.types import Numerics"]
    if at:
        lines.append("from ltx2_core.conditioning.inputs import ImageAt")
    calls = [f"pipe = LTX2Pipeline{_call(given)}", f"clip = pipe{_call(asked)}", 'clip.save("clip.mp4")']
    return "\n".join([*lines, "", *calls, ""])


def _call(values: Iterable[str]) -> str:
    return "(\n" + "".join(f"    {one},\n" for one in values) + ")"


def _literal(value: object) -> str:
    """A literal of Python."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))})"
    if isinstance(value, str):
        # Escapes of JSON would write letters beyond 16 bits as two.
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, bool) or value is None else _plain(value)
