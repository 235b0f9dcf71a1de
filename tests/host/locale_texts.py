"""Texts of the nodes by language: ``locales/LANGUAGE/nodeDefs.json``, and ``locales/source.json`` in English.

``source.json`` holds the English texts that were translated, in the layout of the other files. ComfyUI reads
the folders only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Texts = dict[str, str]
"""Path in a file of texts, joined by dots -> text: ``LTX2AVSpeed.inputs.model.tooltip``."""

LOCALES = Path(__file__).resolve().parents[2] / "locales"
SOURCE = LOCALES / "source.json"
LANGUAGES = ("zh", "ja", "ko", "ru", "fr", "es", "de")
PREFIX = "LTX2AV"


def file_of(language: str) -> Path:
    """The file of a language that ComfyUI reads."""
    return LOCALES / language / "nodeDefs.json"


def read(path: Path) -> Texts:
    """The texts of a file; none if there is no file."""
    return _flat(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(path: Path, texts: Texts) -> None:
    """Write texts as a file that ComfyUI reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_nested(texts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def english(object_info: Json) -> Texts:
    """Texts of this pack's nodes in the host's ``/object_info``, under the paths at which the page looks."""
    nodes = {name: node for name, node in sorted(object_info.items()) if name.startswith(PREFIX)}
    return _flat({name: _texts_of_node(node) for name, node in nodes.items()})


def carried_over(translated: Texts, before: Texts, now: Texts) -> Texts:
    """The texts of a translation whose English is ``now`` as it was ``before``, in the order of ``now``."""
    return {path: translated[path] for path in now if path in translated and before.get(path) == now[path]}


def _texts_of_node(node: Json) -> Json:
    outputs = zip(node["output_name"], node.get("output_tooltips") or [], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": _inputs(node["input"]),
        "outputs": {str(index): _named(name, tooltip) for index, (name, tooltip) in enumerate(outputs)},
    }


def _inputs(group: Json, prefix: str = "") -> Json:
    """The inputs of a node, or of one option of a dynamic combo: ``preset.steps`` is ``preset_steps``."""
    found: Json = {}
    for name, (_, *settings) in [*group.get("required", {}).items(), *group.get("optional", {}).items()]:
        options = settings[0] if settings else {}
        found[prefix + name] = _named(name, options.get("tooltip"))
        for option in options.get("options", []):
            if isinstance(option, dict):
                inner = _inputs(option["inputs"], f"{prefix}{name}_")
                other = [key for key in inner if found.get(key, inner[key]) != inner[key]]
                assert not other, f"{other}: the page has one text for an input of several options"
                found |= inner
    return found


def _named(name: str, tooltip: str | None) -> Json:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def _flat(tree: Json, above: str = "") -> Texts:
    texts: Texts = {}
    for key, value in tree.items():
        path = f"{above}{key}"
        texts |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return texts


def _nested(texts: Texts) -> Json:
    tree: Json = {}
    for path, text in texts.items():
        *above, last = path.split(".")
        _branch(tree, above)[last] = text
    return tree


def _branch(tree: Json, keys: Iterable[str]) -> Json:
    for key in keys:
        tree = tree.setdefault(key, {})
    return tree
