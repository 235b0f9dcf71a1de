"""Seeded damage to files: to bytes, to JSON, and to the header of a safetensors file."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3.5, 10**6, 2**31, 2**63, 2**200, 1e308, float("nan"), float("inf")),
    *("", "x", "é" * 300, "9" * 5000, "../../etc/passwd", "a\0b", "F64", "BOOL", "\udc80"),
    *([], [[]], [0, 2**62], [2**62, 2**62], {}, {"a": 1}, [None] * 5),
)
"""What takes the place of a value of JSON."""


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to four changes: bytes flipped, cut, repeated, zeroed, or exchanged for others."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        # Most of what a reader checks is at the start of a file.
        reach = len(data) if rng.random() < 0.4 else min(len(data), 512)
        at = rng.randrange(reach)
        length = min(rng.choice((1, 2, 4, 8, 64, 512)), len(data) - at)
        change = rng.choice(("flip", "cut", "drop", "repeat", "zero", "ones", "random", "end"))
        if change == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del data[at:]
        elif change == "drop":
            del data[at : at + length]
        elif change == "repeat":
            data[at:at] = data[at : at + length] * rng.randint(1, 8)
        elif change == "end":
            data += rng.randbytes(length)
        else:
            filler = {"zero": bytes(length), "ones": b"\xff" * length}.get(change, rng.randbytes(length))
            data[at : at + length] = filler
    return bytes(data)


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """JSON text with one to three values exchanged, removed or nested; sometimes damaged bytes instead."""
    if rng.random() < 0.2:
        return rng.choice((damaged_bytes(content, rng), b"[" * 100_000, b'{"a":' * 50_000, b"{}", b"[]", b""))
    whole = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(whole))
        if not places:
            break
        container, key = rng.choice(places)
        change = rng.random()
        if change < 0.2:
            del container[key]
        elif change < 0.3 and isinstance(container, dict):
            container[rng.choice(["extra", "auto_map", "", "x" * 500])] = container.pop(key)
        elif change < 0.35:
            container[key] = [deepcopy(container[key])] * 3
        else:
            container[key] = deepcopy(rng.choice(VALUES))
    return json.dumps(whole).encode("utf-8", "surrogatepass")


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a damaged header, or with damaged bytes anywhere."""
    (length,) = struct.unpack("<Q", content[:8])
    kind = rng.random()
    if kind < 0.2:
        return damaged_bytes(content, rng)
    if kind < 0.3:
        return (
            struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**32, 2**62, 2**64 - 1)))
            + content[8:]
        )
    if kind < 0.4:
        return content[: rng.randrange(len(content))]
    header = json.loads(content[8 : 8 + length])
    if kind < 0.7 and "__metadata__" in header:
        name = rng.choice(list(header["__metadata__"]))
        value = header["__metadata__"][name]
        try:
            json.loads(value)
        except ValueError:
            header["__metadata__"][name] = rng.choice(VALUES)
        else:
            header["__metadata__"][name] = damaged_json(value.encode(), rng).decode("utf-8", "replace")
        text = json.dumps(header).encode("utf-8", "surrogatepass")
    else:
        text = damaged_json(content[8 : 8 + length], rng)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def damaged_text(content: bytes, rng: random.Random) -> bytes:
    """Lines of text with parts exchanged for times, marks and runs that a parser may stumble over."""
    words = (
        "0:",
        "5:",
        "nan:",
        "-1:",
        "1e999:",
        ";",
        "|",
        "[",
        "{",
        "\n\n",
        "# x",
        "50%:",
        "999%:",
        "0-4:",
        "4-0:",
    )
    words += ("99:99:99:", " " * 10_000, "\t", "é", "\0", "\udc80", ":" * 2000, "0:" * 5000, '[{"from":')
    text = content.decode()
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(words) + text[at + rng.choice((0, 0, 1, 5)) :]
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
