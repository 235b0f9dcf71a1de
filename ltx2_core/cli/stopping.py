"""Ends a command cleanly when the process is told to stop, with the exit code of the signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click


class Stopped(KeyboardInterrupt):
    """Raised when the process receives signal ``number``, such as SIGTERM.

    The class is a KeyboardInterrupt, so that everything cleans up as after Ctrl+C.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """A context in which SIGTERM, and SIGHUP of a closed terminal, raise :class:`Stopped`.

    If a signal or Ctrl+C ends the block, the command exits with 128 plus the number of the signal: 130 for
    Ctrl+C, 143 for SIGTERM. A signal that is already ignored, such as SIGHUP under nohup, stays ignored.
    """
    # Python installs signal handlers from the main thread alone; elsewhere, such as in tests, it raises.
    before = _take_over() if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        click.echo(f"stopped by {signal.Signals(number).name}", err=True)
        # click itself would exit with 1.
        click.get_current_context().exit(128 + number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_over() -> dict[int, signal.Handlers]:
    """Install a handler that raises :class:`Stopped` for SIGTERM and SIGHUP, if theirs is the default one.

    Returns a dict: number of a signal -> its previous handler.
    """
    # Windows has no SIGHUP. SIGINT is absent, since Python turns it into a KeyboardInterrupt already.
    names = ("SIGTERM", "SIGHUP")
    numbers = [int(getattr(signal, name)) for name in names if hasattr(signal, name)]
    taken = {number: signal.SIG_DFL for number in numbers if signal.getsignal(number) is signal.SIG_DFL}
    for number in taken:
        signal.signal(number, _stop)
    return taken


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 what a handler is called with
    # A supervisor may repeat it, which must not interrupt the cleaning up.
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)
