"""What a training step computes, with the numbers of the official trainer: noise levels, conditions, loss."""

from .clips import Clips, Reference, reference_factors
from .conditions import Condition, condition_of
from .draws import Draws, GeneratorDraws
from .losses import Losses, losses
from .objective import Objective, StreamObjective
from .sigmas import SigmaSampling, sigma_mean
from .step import NoisyStream, Step, prepare, velocities

__all__ = [
    "Clips",
    "Condition",
    "Draws",
    "GeneratorDraws",
    "Losses",
    "NoisyStream",
    "Objective",
    "Reference",
    "SigmaSampling",
    "Step",
    "StreamObjective",
    "condition_of",
    "losses",
    "prepare",
    "reference_factors",
    "sigma_mean",
    "velocities",
]
