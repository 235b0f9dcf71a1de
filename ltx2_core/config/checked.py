"""Reads values of the JSON in a checkpoint's header; errors name the key."""

from __future__ import annotations

from collections.abc import Mapping

from ..storage.files import ParsedJson


def section(config: ParsedJson, name: str) -> ParsedJson:
    """The JSON object under the key ``name`` of ``config``; empty if the key is missing.

    Raises ValueError if the value is no object.
    """
    found = config.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"config key {name!r} must be an object; got {type(found).__name__}")
    return found


def require(c: ParsedJson, key: str, value: object) -> None:
    """Raise ValueError if ``key`` of the JSON object ``c`` has another value than ``value``.

    ``value`` is the only one supported. A missing key is accepted.
    """
    # A missing key is fine: files of older generations lack the newer keys.
    if key in c and c[key] != value:
        raise unsupported(key, c[key], value)


def unsupported(key: str, value: object, allowed: object) -> ValueError:
    """Build the ValueError for a key of a configuration whose value this library does not implement.

    ``value`` is what was found, ``allowed`` what is supported.
    """
    return ValueError(
        f"config key {key!r} is {value!r}; only {allowed!r} is supported. "
        "This is not a released LTX-2 configuration, or it needs a newer version of this package."
    )
