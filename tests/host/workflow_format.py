"""Workflows as tables: columns of named nodes that find their inputs by name, made into API format.

A text ``@name`` is a link to the output of that node that is called like the input, or to its first one;
``@name.output`` names the output. What a table leaves out is looked for where it usually comes from (USUAL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Columns = dict[str, dict[str, "Node"]]
USUAL: dict[str, tuple[str, ...]] = {
    "model": ("models",),
    "clip": ("models",),
    "video_vae": ("models",),
    "audio_vae": ("models",),
    "vae": ("models.video_vae",),
    "upscale_model": ("models",),
    "plan": ("plan", "edit"),
    "edit": ("edit",),
    "positive": ("text",),
    "negative": ("text",),
}
"""Nodes to look for, by the name of an input that is not connected."""


@dataclass(frozen=True)
class Node:
    kind: str
    inputs: Json


def node(kind: str, /, **inputs: Any) -> Node:
    """A node with the inputs that differ from the defaults; widgets that are left out have their defaults."""
    return Node(kind, inputs)


@dataclass(frozen=True)
class Workflow:
    """Columns from left to right: title -> node name -> node."""

    columns: Columns

    @property
    def nodes(self) -> dict[str, Node]:
        return {name: one for column in self.columns.values() for name, one in column.items()}

    def ids(self) -> list[tuple[str, list[int]]]:
        """Titles and node numbers of the columns."""
        numbers = {name: number for number, name in enumerate(self.nodes, start=1)}
        return [(title, [numbers[name] for name in column]) for title, column in self.columns.items()]

    @property
    def stages(self) -> int:
        """How many sampling stages it has."""
        return sum(one.kind == "LTX2AVSampleStage" for one in self.nodes.values())

    def link(self, target: str, wanted: str, known: Json) -> list[Any]:
        """What a link to ``target`` (without the @) of an input called ``wanted`` is in API format."""
        name, _, output = target.partition(".")
        number = list(self.nodes).index(name) + 1
        outputs = known[self.nodes[name].kind]["output_name"]
        if output and output not in outputs:
            raise ValueError(f"{target}: {self.nodes[name].kind} has the outputs {', '.join(outputs)}")
        return [str(number), outputs.index(output or wanted) if output or wanted in outputs else 0]

    def prompt(self, known: Json) -> Json:
        """In API format; ``known`` is the host's ``/object_info``."""
        return {
            str(number): {"class_type": one.kind, "inputs": self._wired(name, one, known)}
            for number, (name, one) in enumerate(self.nodes.items(), start=1)
        }

    def _wired(self, name: str, one: Node, known: Json) -> Json:
        kinds = _inputs(known[one.kind])
        if unknown := one.inputs.keys() - kinds.keys():
            raise ValueError(f"{name}: {one.kind} has no inputs {', '.join(sorted(unknown))}")
        wired: Json = {}
        for wanted, (kind, *_) in kinds.items():
            given = one.inputs.get(wanted)
            if isinstance(given, str) and given.startswith("@"):
                wired[wanted] = self.link(given[1:], wanted, known)
            elif given is not None:
                wired[wanted] = given
            elif found := self._usual(name, wanted, kind, known):
                wired[wanted] = found
        return wired

    def _usual(self, name: str, wanted: str, kind: Any, known: Json) -> list[Any] | None:
        for target in USUAL.get(wanted, ()):
            whose = target.partition(".")[0]
            if whose in self.nodes and whose != name:
                found = self.link(target, wanted, known)
                return found if known[self.nodes[whose].kind]["output"][found[1]] == kind else None
        return None


def _inputs(known: Json) -> Json:
    return {**known["input"].get("required", {}), **known["input"].get("optional", {})}
