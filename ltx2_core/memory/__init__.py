"""What a run will need in memory, how it keeps within a budget, and what it did need."""

from .estimate import MemoryEstimate, estimate_memory
from .plan import PRESETS, MemoryPlan, PlannedStage, plan_memory
from .streaming import BlockStreaming
from .trace import Trace

__all__ = [
    "PRESETS",
    "BlockStreaming",
    "MemoryEstimate",
    "MemoryPlan",
    "PlannedStage",
    "Trace",
    "estimate_memory",
    "plan_memory",
]
