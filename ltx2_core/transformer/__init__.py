"""The diffusion transformer: noisy video and audio tokens with text to velocities."""

from .modality import Modality
from .model import OnBlock, RopeTables, Transformer
from .perturbations import Perturbation, Perturbations

__all__ = ["Modality", "OnBlock", "Perturbation", "Perturbations", "RopeTables", "Transformer"]
