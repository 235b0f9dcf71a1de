"""Writes safetensors files whole or not at all, with errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..media.atomic import replacing


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors``, by name, as a safetensors file; an old file at ``path`` stays until it is complete.

    ``tensors`` must be contiguous; ``metadata`` are strings for the header, None for none. Raises OSError
    with advice, for example for a full disk.
    """
    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise _system_error(error, path) from error


def _system_error(error: SafetensorError, path: Path) -> OSError:
    """The OSError that the text of ``error`` describes, for the file ``path`` that was written."""
    # Its text is the only place that has the system's number.
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), str(error), str(path)) if number else OSError(f"{path}: {error}")
