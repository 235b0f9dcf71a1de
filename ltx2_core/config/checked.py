"""Access to checkpoint JSON that names the key in its errors."""

from __future__ import annotations

from collections.abc import Mapping

from ..storage.files import ParsedJson


def section(config: ParsedJson, name: str) -> ParsedJson:
    """The object under a key; empty where the key is missing. Raises ValueError for another value."""
    found = config.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"config key {name!r} must be an object; got {type(found).__name__}")
    return found


def require(c: ParsedJson, key: str, value: object) -> None:
    """Raise ValueError if ``key`` is present with another value than the only one supported."""
    # A missing key is fine: files of older generations lack the newer keys.
    if key in c and c[key] != value:
        raise unsupported(key, c[key], value)


def unsupported(key: str, value: object, allowed: object) -> ValueError:
    """The error for a value of a key that this library does not implement."""
    return ValueError(
        f"config key {key!r} is {value!r}; only {allowed!r} is supported. "
        "This is not a released LTX-2 configuration, or it needs a newer version of this package."
    )
