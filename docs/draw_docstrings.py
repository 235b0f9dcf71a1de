"""Draws docstrings and helps of options at random, to be judged without the code: draw_docstrings.py SEED."""

import ast
import random
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from ltx2_core.run.options import OPTIONS  # noqa: E402

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def documented(path: Path) -> list[str]:
    """File, class, signature and docstring of a module and of all classes and functions in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    owners = {child: f"{owner.name}: " for owner in classes for child in owner.body}
    return [
        f"{path.relative_to(ROOT)}: {owners.get(node, '')}{signature(node)}\n    {text}\n"
        for node in nodes
        if isinstance(node, Documented) and (text := ast.get_docstring(node))
    ]


def signature(node: Documented) -> str:
    """What stands above a docstring: ``def f(x: Tensor) -> Tensor``."""
    return "module" if isinstance(node, ast.Module) else ast.unparse(node).split(":\n")[0]


if __name__ == "__main__":
    draw = random.Random(int(sys.argv[1]))
    files = [path for room in ("ltx2_core", "nodes") for path in sorted((ROOT / room).rglob("*.py"))]
    texts = draw.sample([text for path in files for text in documented(path)], 40)
    for option in draw.sample(OPTIONS, 20):
        about = f"{option.choices or option.kind}, {option.range}, {option.unit}"
        texts.append(f"{option.flag} {about}: {option.help}\n")
    sys.stdout.writelines(texts)
