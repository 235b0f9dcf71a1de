"""Prompts by time: one grammar for the command line, Python and the node."""

from __future__ import annotations

import pytest

from ltx2_core.editing import PromptSchedule

SCHEDULES = {
    "semicolon": ("0: a red circle; 30: a blue square", ((0, "a red circle"), (30, "a blue square"))),
    "lines": ("0: a\n2.5s: b", ((0, "a"), (2.5, "b"))),
    "ranges": ("0-4: a; 4 to 8 s: b", ((0, "a"), (4, "b"))),
    "clock": ("0:00: a\n0:30: b\n00:01:00.5: c", ((0, "a"), (30, "b"), (60.5, "c"))),
    "percent": ("0%: a; 50%: b", ((0, "a"), (30, "b"))),
    "comments": ("# two parts\n\n0: a\n  # and\n30: b\n", ((0, "a"), (30, "b"))),
    "a semicolon in a prompt": ("0: a ball; it bounces; 30: b;", ((0, "a ball; it bounces"), (30, "b"))),
    "a later first start": ("2: a; 3: b", ((0, "a"), (3, "b"))),
    "empty parts": ("; 0: a;; 3: b;", ((0, "a"), (3, "b"))),
    "json": ('[{"prompt": "a"}, {"from": "0:30", "prompt": "b"}]', ((0, "a"), (30, "b"))),
}

PLAIN = (
    *("a: b", "16:9 footage of a ball", "a ball; it bounces", "3 balls: red, blue", "two\nlines", "# 1\na"),
    *(
        "{a ball}",
        '{"a',
        "4:30 in the morning",
        "a; end: b",
        "1. a\n2. b",
        "3 men: tall\n2 men: small",
        "0 - a",
    ),
)

MISTAKES = {
    "falling": ("0: a; 4: b; 3: c", "line 1, column 13: .*3 s is not after 4 s"),
    "equal": ("0: a\n0: b", "line 2, column 1"),
    "nan": ("0: a; nan: b", "line 1, column 7"),
    "negative": ("0: a\n -1: b", "line 2, column 2"),
    "no time": ("0: a\nb", "line 2, column 1: 'b'"),
    "no first time": ("a ball; 30: b", "line 1, column 1"),
    "no prompt": ("0: a; 3:", "line 1, column 7"),
    "an empty time": ("0: a; : b", "line 1, column 7: ': b' does not begin with a time"),
    "an empty time on a line": ("0: a\n: b", "line 2, column 1"),
    "seconds above 59": ("0: a; 0:75: b", "line 1, column 7"),
    "past the end": ("0: a; 150%: b", "line 1, column 7"),
    "an end in the next part": ("0-3: a\n2: b", "line 1, column 1"),
    "a broken json": ('[{"from": 0,}]', r"line 1 column"),
    "a nan of json": ('[{"prompt": "a"}, {"from": NaN, "prompt": "b"}]', "entry 2"),
    "falling json": ('[{"from": 0, "prompt": "a"}, {"from": -1, "prompt": "b"}]', "entry 2"),
    "deep json": ("[" * 100000, "JSON"),
    "minutes in another place": ("0: a; 0:03,5: b", "line 1, column 7"),
    "a decimal comma": ("0,5: a; 2: b", "line 1, column 1"),
    "frames": ("frame 0: a; frame 24: b", "line 1, column 1: 'frame 0: a'"),
    "frames as a unit": ("0f: a\n24f: b", "line 1, column 1"),
    "another unit": ("0m0s: a; 0m3s: b", "line 1, column 1"),
    "milliseconds": ("0ms: a; 3000 ms: b", "line 1, column 1"),
    "one other unit": ("0: a; 3000ms: b", "line 1, column 7"),
    "the end as a time": ("0: a; end: b", "line 1, column 7"),
    "times without a colon": ("0:00 a ball; 0:02 b", "line 1, column 1"),
    "equal signs": ("0=a; 3=b", "line 1, column 1"),
    "dashes": ("0 - a\n3 - b", "line 1, column 1"),
    "round brackets": ("(0-2): a; (2-4): b", "line 1, column 1"),
    "brackets": ("[0:00] a\n[0:02] b", r"line 1, column 1: '\[0:00\] a'"),
    "open ranges": ("0-: a; 3-: b", "line 1, column 1"),
    "wide colons": ("0：a；3：b", "line 1, column 1"),
    "words": ("at 0: a; at 3: b", "line 1, column 1"),
    "subtitles": ("1\n00:00:00,000 --> 00:00:02,000\na", "SRT"),
    "a json object": ('{"0": "a", "3": "b"}', "JSON must be a list"),
    "no text": (" ; \n", "there is no text"),
    "only comments": ("# a\n# b", "there is no text"),
    "a window without a prompt": ("a | | b", "window 2 has no prompt"),
    "a window of json without a prompt": ('["a", ""]', "window 2 has no prompt"),
    "an entry without a prompt": ('[{"prompt": " "}]', "entry 1: there is no prompt"),
    "an unknown key": ('[{"start": 0, "prompt": "a"}]', "entry 1"),
}


@pytest.mark.parametrize(("text", "parts"), SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_is_parsed(text, parts):
    assert PromptSchedule.parse(text, seconds=60).parts == parts


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_is_one_prompt(text):
    assert PromptSchedule.parse(text).parts == ((0, text),)


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_place(text, words):
    with pytest.raises(ValueError, match=words):
        PromptSchedule.parse(text, seconds=60)


def test_a_time_after_a_comma_is_said_to_be_text(caplog):
    assert PromptSchedule.parse("0: a, 3: b").parts == ((0, "a, 3: b"),)
    assert ["'3:' after the comma is part" in record.getMessage() for record in caplog.records] == [True]


def test_percent_needs_the_length():
    with pytest.raises(ValueError, match="needs the length of the clip"):
        PromptSchedule.parse("0: a; 50%: b")


def test_long_runs_of_spaces_are_parsed_at_once():
    assert PromptSchedule.parse("0: a;" + " " * 100_000 + "3: b").at(3) == "b"


@pytest.mark.parametrize(
    ("text", "gaps"),
    [
        ("0-2: a; 5-8: b", ["2 to 5 s; the one from 0 s", "8 to 10 s; the one from 5 s"]),
        ("5: a", ["0 to 5 s; the one from 5 s"]),
        ("0-5: a; 5-9.8: b", []),
        ("0: a; 50%: b", []),
    ],
)
def test_a_time_without_a_prompt_is_said(text, gaps, caplog):
    PromptSchedule.parse(text, seconds=10)
    assert [record.getMessage().removeprefix("prompts: none covers ") for record in caplog.records] == [
        f"{gap} is used there" for gap in gaps
    ]
