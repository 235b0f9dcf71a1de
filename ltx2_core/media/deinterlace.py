"""Deinterlaces video: a frame of two fields, recorded at two times, becomes a whole frame of the first time.

A field is every second line of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av

PROGRESSIVE = 1
"""FFmpeg's number for the field order of progressive video; 0 is unknown, higher ones are interlaced."""
NOTE = "interlaced: the lines of the second field of each frame are computed from its neighbours (bwdif)"
"""A sentence for reports on what deinterlacing changes."""


def can_deinterlace() -> bool:
    """Whether this build of FFmpeg has the filter that deinterlaces."""
    return "bwdif" in av.filter.filters_available


def deinterlaced(frames: Iterable[Any], stream: Any) -> Iterator[Any]:
    """Yield a progressive frame, with the same time stamp, for each of the decoded ``frames`` of ``stream``.

    Frames and stream are PyAV's. A frame is computed from itself and its two neighbours. The first of
    ``frames`` has no frame before it, so that its result differs from that of a reading that begins earlier.
    Frames that are progressive are yielded unchanged.
    """
    graph: Any = None
    kind: tuple[int, int, str] | None = None
    for frame in frames:
        # The size or format of a stream may change within it.
        own = frame.width, frame.height, frame.format.name
        if own != kind:
            yield from _ready(graph, stream, end=True)
            graph, kind = _graph(frame, stream), own
        graph.push(frame)
        yield from _ready(graph, stream)
    yield from _ready(graph, stream, end=True)


def _graph(frame: Any, stream: Any) -> Any:
    graph: Any = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=stream.time_base
    )
    # One frame for each stored one: with a frame for each field an edit would have twice as many frames.
    bob = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(bob)
    bob.link_to(sink)
    graph.configure()
    return graph


def _ready(graph: Any, stream: Any, *, end: bool = False) -> Iterator[Any]:
    """Yield the frames that the filter ``graph`` has finished, with times in units of ``stream``.

    ``end`` says that no frame follows, so that the filter finishes all frames that it holds. ``graph`` None
    yields nothing.
    """
    if graph is None:
        return
    if end:
        graph.push(None)
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None:
            # The filter counts in units of half a tick.
            frame.pts = round(frame.pts * frame.time_base / stream.time_base)
            frame.time_base = stream.time_base
        yield frame
