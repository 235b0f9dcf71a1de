"""Spares long-lived objects the garbage collector, which stops all threads of a process while it searches."""

from __future__ import annotations

import gc


def spare_present_objects() -> None:
    """Have the garbage collector search only objects that are made from now on.

    A process has 300,000 objects once torch and its models are described, all of which stay: a search
    through them took 0.3 s, in which the server answered nobody.
    """
    gc.collect()
    gc.freeze()
