"""Text conditioning: prompts -> Gemma's hidden states -> features -> connectors -> transformer's input."""

from .cache import FeatureCache
from .connectors import CONTEXT_LENGTH, TextConnectors
from .encoder import OnLayer, TextEncoder
from .features import FeatureAccumulator, FeatureExtractor
from .gemma import Gemma, load_gemma
from .tokenizer import MAX_TOKENS, Tokenizer, check_tokenizer, load_tokenizer, read_tokenizer

__all__ = [
    "CONTEXT_LENGTH",
    "MAX_TOKENS",
    "FeatureAccumulator",
    "FeatureCache",
    "FeatureExtractor",
    "Gemma",
    "OnLayer",
    "TextConnectors",
    "TextEncoder",
    "Tokenizer",
    "check_tokenizer",
    "load_gemma",
    "load_tokenizer",
    "read_tokenizer",
]
