"""Old public names of this package's classes and arguments, which still work with a DeprecationWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def warn_renamed(old: str, new: str) -> None:
    """Issue a DeprecationWarning that the name ``old`` is now ``new``.

    The warning names the line of code from which the caller of this function was called: there the old name
    is used.
    """
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


def renamed(**names: str) -> Callable[[type[T]], type[T]]:
    """A class decorator for which ``renamed(old="new")`` makes the old name mean the new one.

    The class then accepts ``old`` as a keyword when it is made, and has ``old`` as an attribute that returns
    ``new``. Using either issues a DeprecationWarning.
    """

    def decorate(cls: type[T]) -> type[T]:
        init: Callable[..., None] = cls.__init__

        @functools.wraps(init)
        def with_old_names(self: T, *args: Any, **values: Any) -> None:
            for old in names.keys() & values.keys():
                warn_renamed(f"{cls.__name__}({old}=...)", f"{names[old]}=")
                values[names[old]] = values.pop(old)
            init(self, *args, **values)

        cls.__init__ = with_old_names  # type: ignore[assignment]
        for old, new in names.items():
            setattr(cls, old, property(functools.partial(_read, old, new)))
        return cls

    return decorate


def _read(old: str, new: str, owner: Any) -> Any:
    warn_renamed(f"{type(owner).__name__}.{old}", new)
    return getattr(owner, new)
