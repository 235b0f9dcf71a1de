"""What can happen to a process that runs jobs: it is lost, it cannot start, or its job fails."""

from __future__ import annotations


class ReplicaLost(Exception):
    """Raised if the process that ran a job has ended; the job can run again elsewhere."""


class CannotStart(Exception):
    """Raised if no process can be started that runs jobs; the job has not begun."""


class JobFailed(Exception):
    """Raised with the text of the error by which a job failed in another process.

    ``expected`` is False for a fault of the program, whose ``trace`` is for the log.
    """

    def __init__(self, text: str, *, expected: bool, trace: str = "") -> None:
        super().__init__(text)
        self.expected, self.trace = expected, trace
