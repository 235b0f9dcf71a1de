"""The line of text under a running node: how far it is and how long it takes."""

from __future__ import annotations

import re

from host_server import Server
from test_previews import graph
from tiny_models import TinyModels

TEXT = 3
"""The host's number for messages of text."""


def lines(messages: list) -> list[tuple[str, str]]:
    """The node and the text of every message of text."""
    found = []
    for message in messages:
        if isinstance(message, bytes) and int.from_bytes(message[:4], "big") == TEXT:
            length = int.from_bytes(message[4:8], "big")
            found.append((message[8 : 8 + length].decode(), message[8 + length :].decode()))
    return found


def test_a_stage_tells_its_step_the_time_left_and_at_the_end_how_long_it_took(
    server: Server, models: TinyModels
):
    made = graph(models, stage=True, steps=150)
    node = next(n for n, one in made.prompt.items() if one["class_type"] == "LTX2AVSampleStage")
    told = [text for number, text in lines(server.listen(made.prompt)) if number == node]
    assert told
    assert all(re.fullmatch(r"sampling step: \d+ of 150(, \d+ s left)?", text) for text in told[:-1]), told
    assert re.fullmatch(r"sampling step: 150 in \d+ s", told[-1])
    steps = [int(text.split()[2]) for text in told]
    assert steps == sorted(set(steps))
    assert len(steps) < 150, "fast steps do not flood the page"


def test_work_that_ends_at_once_says_nothing(server: Server, models: TinyModels):
    made = graph(models, stage=True, steps=1)
    node = next(n for n, one in made.prompt.items() if one["class_type"] == "LTX2AVSampleStage")
    server.run(made.prompt)
    made.prompt[node]["inputs"]["seed"] = 5
    assert not [text for number, text in lines(server.listen(made.prompt)) if number == node]
