"""Where the scenes of a video begin and end, by PySceneDetect."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def check_scenes() -> None:
    """Raise ValueError if PySceneDetect is not installed."""
    if find_spec("scenedetect") is None:
        raise ValueError("--scenes needs PySceneDetect: pip install scenedetect[opencv], or use --chunks")


def scenes_of(path: Path) -> tuple[tuple[float, float], ...]:
    """The scenes of a video as (first, last) second, by changes of content; the whole one if there is no cut.

    Raises ValueError for a video that PySceneDetect cannot read.
    """
    from scenedetect import ContentDetector, detect

    try:
        found = detect(str(path), ContentDetector())
    # Its errors are of its own, and of the library that decodes for it.
    except Exception as error:
        raise ValueError(f"{path.name}: PySceneDetect cannot read it: {error}") from error
    return tuple((start.get_seconds(), end.get_seconds()) for start, end in found)
