"""What a run will need in memory, how it keeps within a budget, and what it did need."""

from .estimate import MemoryEstimate, estimate_memory
from .plan import (
    PRESETS,
    MemoryPlan,
    PlannedStage,
    check_budget,
    choose_piece,
    parse_size,
    plan_memory,
    size_text,
    usable,
)
from .streaming import BlockStreaming
from .trace import Trace

__all__ = [
    "PRESETS",
    "BlockStreaming",
    "MemoryEstimate",
    "MemoryPlan",
    "PlannedStage",
    "Trace",
    "check_budget",
    "choose_piece",
    "estimate_memory",
    "parse_size",
    "plan_memory",
    "size_text",
    "usable",
]
