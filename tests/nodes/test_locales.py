"""Each language has every text of the nodes, with the numbers and names of its English; without ComfyUI."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))

from locale_texts import LANGUAGES, LOCALES, SOURCE, Texts, carried_over, file_of, read

ENGLISH = read(SOURCE)
TITLES = {path.split(".")[0]: text for path, text in ENGLISH.items() if path.endswith(".display_name")}


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def nodes_named_in(text: str) -> list[str]:
    """Nodes whose titles are in an English text; a title within a longer one does not count."""
    named = []
    for node, title in sorted(TITLES.items(), key=lambda item: -len(item[1])):
        if title in text:
            named.append(node)
            text = text.replace(title, "")
    return named


def labels(texts: Texts, node: str) -> dict[str, str]:
    """The names of a node's inputs, by the English one."""
    inputs = [path for path in ENGLISH if re.fullmatch(rf"{node}\.inputs\.\w+\.name", path)]
    return {ENGLISH[path]: texts[path] for path in inputs}


def test_every_folder_is_a_language():
    assert sorted(path.name for path in LOCALES.iterdir() if path.is_dir()) == sorted(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
class TestLanguage:
    def test_has_the_texts_of_the_source_and_no_others(self, language: str):
        assert list(read(file_of(language))) == list(ENGLISH)

    def test_has_no_empty_text(self, language: str):
        texts = read(file_of(language))
        assert not [path for path, text in texts.items() if not text or text != text.strip()]

    def test_has_nothing_that_the_page_reads_as_syntax_of_messages(self, language: str):
        """The page compiles these texts: ``{name}`` inserts, ``@`` links, ``|`` separates plurals."""
        assert not [path for path, text in read(file_of(language)).items() if re.search(r"[{}@|]", text)]

    def test_has_the_numbers_of_the_source(self, language: str):
        texts = read(file_of(language))
        assert not [path for path in ENGLISH if numbers(texts[path]) != numbers(ENGLISH[path])]

    def test_names_nodes_as_the_page_titles_them(self, language: str):
        texts = read(file_of(language))
        wrong = [
            f"{path} does not name {title}"
            for path, text in ENGLISH.items()
            for node in nodes_named_in(text)
            if (title := texts[f"{node}.display_name"]) not in texts[path]
        ]
        assert not wrong

    def test_gives_nodes_and_the_inputs_of_one_node_different_names(self, language: str):
        texts = read(file_of(language))
        assert len({texts[f"{node}.display_name"] for node in TITLES}) == len(TITLES)
        for node in TITLES:
            names = labels(texts, node)
            assert len(set(names.values())) == len(names), f"{node}: {names}"


@pytest.mark.parametrize(
    ("now", "left"),
    [
        ({"a": "one", "b": "two"}, {"a": "eins", "b": "zwei"}),
        ({"a": "one", "b": "two, or three"}, {"a": "eins"}),
        ({"a": "one", "b": "two", "c": "new"}, {"a": "eins", "b": "zwei"}),
        ({"b": "two"}, {"b": "zwei"}),
        ({"b": "two", "a": "one"}, {"b": "zwei", "a": "eins"}),
    ],
    ids=["unchanged", "changed", "added", "removed", "moved"],
)
def test_a_text_that_has_changed_loses_its_translation(now: Texts, left: Texts):
    remaining = carried_over({"a": "eins", "b": "zwei"}, {"a": "one", "b": "two"}, now)
    assert list(remaining.items()) == list(left.items())


PAGE = {
    language: json.loads((LOCALES / language / "main.json").read_text())["ltx2av"] for language in LANGUAGES
}
WEB = LOCALES.parent / "web"


def texts_of_the_page() -> set[str]:
    """What the timeline and the comparison ask ``phrase`` for in English: texts, buttons and fields."""
    files = [*sorted((WEB / "timeline").glob("*.js")), WEB / "compare.js"]
    script = "\n".join(path.read_text(encoding="utf-8") for path in files)
    calls = re.findall(r'\b(?:phrase|error|note|field)\("([^"]*)"', script)
    calls += [text for pair in re.findall(r'\bbutton\("([^"]*)", "([^"]*)"', script) for text in pair]
    # Those of symbols are the same everywhere, and so is the name of a codec's setting.
    return {text for text in calls if re.search(r"[a-z]{2}", text)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_timeline_has_its_texts_in_every_language(language: str):
    texts = PAGE[language]
    assert texts_of_the_page() <= texts.keys()
    assert texts.keys() == PAGE["de"].keys()
    script = "".join(path.read_text(encoding="utf-8") for path in WEB.rglob("*.js"))
    assert not [english for english in texts if f'"{english}"' not in script and f" {english}:" not in script]
    for english, text in texts.items():
        assert text == text.strip()
        assert not re.search(r"[{}@|]", text), text
        assert set(re.findall(r"%\d", text)) == set(re.findall(r"%\d", english)), english
