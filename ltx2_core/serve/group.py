"""Several processes that sample one clip together: how they meet, and how the first one leads the others."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from ..run.distributed import Processes, backend_of, divided
from ..storage.files import JsonValue

_c10d: Any = dist
"""The module as Python has it; its types leave out the stores."""
_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05
"""Seconds between two looks for a decision: few at first, as in a step, more while a clip is written."""
_LONGEST: Final = timedelta(minutes=30)
"""How long a process waits for the others within a step, who may still read their weights."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process meets the others of its group: number ``rank``, at a store on ``host`` and ``port``."""

    rank: int
    host: str
    port: int


class Link:
    """Carries decisions from the first process of a group, ``rank`` 0, to the ``count`` - 1 others.

    All processes read the decisions in the order in which the first one takes them. It alone looks at files
    and at clients, so that no process begins what another one leaves out, for which it would wait.
    """

    def __init__(self, store: Any, rank: int, count: int) -> None:
        self._store, self._rank, self._count = store, rank, count
        self._turn = self._number = 0

    def begin(self, turn: int) -> None:
        """Begin with job number ``turn``, another one for each job; every process calls it."""
        self._turn, self._number = turn, 0

    def decide(self, value: JsonValue = None) -> JsonValue:
        """In the first process send ``value`` to the others and return it; in the others return theirs.

        Raises :class:`Abandoned` if the first process has ended the job.
        """
        number, self._number = self._number, self._number + 1
        if self._rank > 0:
            return self._received(f"{self._turn}/{number}/{self._rank}")
        for rank in range(1, self._count):
            self._store.set(f"{self._turn}/{number}/{rank}", json.dumps(value))
        return value

    def end(self) -> None:
        """In the first process: let those that wait for a decision know that there is none."""
        self._store.set(_ended(self._turn), "")
        # Of the job before nobody reads any more.
        self._store.delete_key(_ended(self._turn - 1))

    def _received(self, key: str) -> JsonValue:
        pause_s = _PAUSE_S
        # A wait of the store would write a warning each time that it has taken too long.
        while not self._store.check([key]):
            # Looked for once more, since the last decision is stored before the end.
            if self._store.check([_ended(self._turn)]) and not self._store.check([key]):
                raise Abandoned
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        value: JsonValue = json.loads(self._store.get(key))
        self._store.delete_key(key)
        return value


class Abandoned(Exception):
    """Raised if the first process of a group has ended the job that another one is at."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """This process as a member of a group: its device, its place among the others and its link to them."""

    device: torch.device
    processes: Processes
    link: Link


def opened_store(host: str) -> Any:
    """A store of this process at a free port of ``host``, at which the processes of a group meet."""
    return _c10d.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_LONGEST)


def join(place: Place, planned: Processes, device: torch.device, store: Any) -> Member:
    """Join the group of ``planned.count`` processes; returns when all of them have.

    ``store`` is that of the first process, None in the others. With CUDA the device is the first one that
    this process sees. Raises what ``torch.distributed`` raises.
    """
    if store is None:
        store = _c10d.TCPStore(place.host, place.port, is_master=False, timeout=_LONGEST)
    if device.type == "cuda":
        device = torch.device("cuda", 0)
        # NCCL communicates from the current device of the process.
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend_of(device.type),
        store=_c10d.PrefixStore("group", store),
        rank=place.rank,
        world_size=planned.count,
        timeout=_LONGEST,
    )
    processes = divided(planned.groups)
    link = Link(_c10d.PrefixStore("jobs", store), place.rank, planned.count)
    return Member(device=device, processes=processes, link=link)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the group does not answer any more."""
    if isinstance(error, dist.DistError):
        return True
    # Gloo raises a plain RuntimeError, whose text has the path of its source.
    return isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))


def _ended(turn: int) -> str:
    return f"{turn}/ended"
