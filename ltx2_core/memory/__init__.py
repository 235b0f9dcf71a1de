"""What a run will need in memory."""

from .estimate import MemoryEstimate, estimate_memory
from .trace import Trace

__all__ = ["MemoryEstimate", "Trace", "estimate_memory"]
