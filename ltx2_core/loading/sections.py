"""The sections of a checkpoint's configuration, and the rule by which those of several files are joined."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..storage.files import JsonObject, JsonValue, ParsedJson
from .detect import Component

SECTION: Mapping[Component, str] = {
    Component.TRANSFORMER: "transformer",
    Component.TEXT_CONNECTORS: "transformer",
    Component.TEXT_PROJECTION: "transformer",
    Component.VIDEO_ENCODER: "vae",
    Component.VIDEO_DECODER: "vae",
    Component.AUDIO_ENCODER: "audio_vae",
    Component.AUDIO_DECODER: "audio_vae",
    Component.VOCODER: "vocoder",
}
"""Section of the header's configuration for each component; an upsampler's keys are in no section."""


def joined_config(files: Sequence[tuple[ParsedJson, Collection[Component]]]) -> JsonObject:
    """Join the configurations of the files of one model; each comes with the components read from that file.

    A section, such as ``vae``, is taken from the file from which its components are read, whatever the order
    of the files, because other files often repeat the section of the release that they were cut from. If
    components of one section are read from several files, as those of ``transformer`` may be, the keys of
    these files are joined; where they contradict each other, the file of the component that is first in
    :class:`Component` decides. If none is read from a file that has the section, the first file with the
    section decides.
    """
    joined: JsonObject = {}
    for name in dict.fromkeys(name for config, _ in files for name in config):
        stated = [(config[name], components) for config, components in files if name in config]
        own = [(value, rank) for value, held in stated if (rank := _rank(name, held)) is not None]
        # Sorting is stable, so that of equal ranks the first file counts.
        own.sort(key=lambda pair: pair[1])
        joined[name] = _joined([value for value, _ in own] or [stated[0][0]])
    return joined


def _rank(section: str, components: Collection[Component]) -> int | None:
    """The smallest index in :class:`Component` of those of ``components`` that ``section`` describes.

    None if it describes none of them.
    """
    order = list(Component)
    return min((order.index(c) for c in components if SECTION.get(c) == section), default=None)


def _joined(values: Sequence[JsonValue]) -> JsonValue:
    """The first of ``values``; if it is an object, the keys that only later values have are added to it."""
    first, *later = values
    if not isinstance(first, Mapping):
        return first
    added: dict[str, JsonValue] = {}
    for value in reversed(later):
        added |= value if isinstance(value, Mapping) else {}
    return {**added, **first}
