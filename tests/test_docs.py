"""README and pages say what is there: commands, options, nodes, errors, links, images of the workflows."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

import click
import pytest

import ltx2_core
from ltx2_core.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
DOCS, NODE_HELP = ROOT / "docs", ROOT / "web" / "docs"
WORKFLOWS = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")] + sorted(
    DOCS.rglob("*.md")
)
LARGEST_README, LARGEST_PICTURE = 12 * 1024, 2**20
GENERATED = ("docs/nodes/LTX2AV", "docs/tiny-model.md")
"""Targets of links that the build makes, or that are written apart."""


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def graph_pictures():
    """The module of ``docs/graph_pictures.py``, which is a script next to the pages and in no package."""
    spec = importlib.util.spec_from_file_location("graph_pictures", DOCS / "graph_pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def drawn() -> dict[str, str]:
    return graph_pictures().pictures()


def commands(page: Path) -> list[str]:
    """What a page says to type: lines of its bash blocks, and code in its text that begins with ``ltx2``."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text(page), re.DOTALL)).splitlines()
    return [
        line
        for line in blocks + re.findall(r"`(ltx2 [^`]+)`", text(page))
        if re.search(r"(^|/| )ltx2 ", line)
    ]


def flags(command: click.Command) -> set[str]:
    return {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)} | {
        "--help",
        "-h",
    }


def test_the_readme_is_small():
    assert len(text(ROOT / "README.md").encode()) <= LARGEST_README


def test_the_version_of_the_project_is_that_of_the_package():
    assert f'version = "{ltx2_core.__version__}"' in text(ROOT / "pyproject.toml")
    assert f"## [{ltx2_core.__version__}]" in text(ROOT / "CHANGELOG.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_name_existing_options(page):
    context = click.Context(main)
    for line in commands(page):
        words = re.split(r"\bltx2 ", line.split("#")[0], maxsplit=1)[-1].split()
        command: click.Command = main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words[0])
            if found is None:
                break
            command, words = found, words[1:]
        unknown = {word for word in words if re.fullmatch(r"-{1,2}[a-z][\w-]*", word)} - flags(command)
        assert command is not main or words[0].isupper() or words[0].startswith("-"), line
        assert not unknown, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_images_of_a_page_exist(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text(page)):
        if "://" in target:
            continue
        path = (page.parent / target).resolve()
        if not path.relative_to(ROOT).as_posix().startswith(GENERATED):
            assert path.exists(), target
            assert path.is_dir() or path.stat().st_size <= LARGEST_PICTURE, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_nodes_that_a_page_names_in_bold_exist(page):
    shown = set(graph_pictures().display_names().values())
    named = {name.replace("\n", " ") for name in re.findall(r"\*\*(LTX-2 [^*]+)\*\*", text(page))}
    assert named <= shown


def test_nodes_and_help_pages_are_the_same():
    assert set(graph_pictures().display_names()) == {path.stem for path in NODE_HELP.glob("*.md")}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_its_page_and_its_image(name):
    assert f"]({name}.svg)" in text(DOCS / "workflows" / f"{name}.md")
    assert f"]({name}.md)" in text(DOCS / "workflows" / "index.md")
    assert f"workflows/{name}.md" in text(ROOT / "mkdocs.yml")
    assert text(DOCS / "workflows" / f"{name}.svg") == drawn()[name], (
        "draw it again: python docs/graph_pictures.py"
    )


def test_the_tables_for_those_who_come_from_other_nodes_name_nodes_that_exist():
    shown = set(graph_pictures().display_names().values())
    named: set[str] = set()
    for row in re.findall(r"^\|[^|]+\|([^|]+)\|", text(DOCS / "migrating.md"), re.MULTILINE):
        for part in re.split(r", or |, |: | \(", row):
            if "LTX-2 " in part:
                named.add(part[part.index("LTX-2 ") :].strip())
    assert len(named) > 20
    assert named <= shown


@cache
def messages() -> str:
    """Every string of core and nodes; what a message fills in is left out, as ``...`` is on the page."""
    found: list[str] = []
    for folder in ("ltx2_core", "nodes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(text(path))):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    quoted = re.findall(r"^\| `([^`]+)`", text(DOCS / "troubleshooting.md"), re.MULTILINE)
    assert len(quoted) > 30
    missing = [
        (message, words)
        for message in quoted
        for fragment in re.split(r"\.\.\.|<[a-z]+>|\w*=\d+|\d+", message)
        if len(words := fragment.strip(" :;()'")) > 8 and words not in messages()
    ]
    assert not missing, "no message of the code has these words"
