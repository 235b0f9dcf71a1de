"""Pages that are made while the site is built: commands from click, help of the nodes from ``web/docs``.

mkdocs calls the functions below by their names. What they read is the code of this checkout, so nothing of it
is written twice.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
NODE_HELP = ROOT / "web" / "docs"
GALLERY = ROOT / "benchmarks" / "gallery"
COMMANDS, NODES = "<!-- generated: commands -->", "<!-- generated: nodes -->"
WIDTH = 96


def on_files(files: Files, *, config: Any) -> Files:
    """Add the help of every node as a page of its own, and the images of the gallery."""
    for path in sorted(NODE_HELP.glob("*.md")):
        files.append(File.generated(config, f"nodes/{path.name}", abs_src_path=str(path)))
    for path in sorted(GALLERY.glob("*.png")):
        files.append(File.generated(config, f"gallery/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the two marks by what is generated, and lead to the gallery of the site."""
    markdown = markdown.replace("](../benchmarks/gallery/", "](gallery/")
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(command_pages()))
    if NODES in markdown:
        markdown = markdown.replace(NODES, "\n".join(node_list()))
    return markdown


def command_pages() -> Iterator[str]:
    """A section with its help for every command of ``ltx2``, and for every command below it."""
    from ltx2_core.cli.main import main

    yield from _command(main, click.Context(main, info_name="ltx2"), level=2)


def _command(command: click.Command, context: click.Context, *, level: int) -> Iterator[str]:
    context.terminal_width = context.max_content_width = WIDTH
    yield f"{'#' * level} {context.command_path}\n"
    yield f"```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                inner = click.Context(below, info_name=name, parent=context)
                yield from _command(below, inner, level=level + (context.parent is not None))


def node_list() -> Iterator[str]:
    """The nodes by category, each with the first sentence of its help."""
    for category, ids in node_categories().items():
        yield f"\n## {category}\n\n| node | does |\n|---|---|"
        for node in ids:
            title, summary = (NODE_HELP / f"{node}.md").read_text(encoding="utf-8").split("\n\n")[:2]
            first = re.split(r"(?<=[.])\s", summary.replace("\n", " "))[0].replace("|", "\\|")
            yield f"| [{title.removeprefix('# ')}]({node}.md) | {first} |"


def node_categories() -> dict[str, list[str]]:
    """Ids of the nodes by their category, read from the sources without ComfyUI."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        names = _constants(path)
        for call in ast.walk(_tree(path)):
            if isinstance(call, ast.Call):
                said = {k.arg: k.value for k in call.keywords}
                node = said.get("node_id")
                if isinstance(node, ast.Constant) and (NODE_HELP / f"{node.value}.md").is_file():
                    category = _value(said.get("category"), names) or path.parent.name
                    found.setdefault(category, []).append(str(node.value))
    return dict(sorted(found.items()))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _constants(path: Path) -> dict[str, Any]:
    """Constants of a module by their names, with those that it imports from the modules of this pack."""
    names: dict[str, Any] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and (value := _value(node.value, names)) is not None:
                    names[target.id] = value
        elif isinstance(node, ast.ImportFrom) and node.level and node.module:
            source = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
            wanted = {alias.name: alias.asname or alias.name for alias in node.names}
            if source.is_file() and any(name.isupper() for name in wanted):
                found = _constants(source)
                names |= {own: found[name] for name, own in wanted.items() if name in found}
    return names


def _value(node: ast.expr | None, names: dict[str, Any]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return names.get(node.id) if isinstance(node, ast.Name) else None
