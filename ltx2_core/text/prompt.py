"""The text part of a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The description of a clip and its audio, and what to avoid.

    ``negative`` is read where guidance away from it or a sampler needs it; None leaves it to the recipe of
    the checkpoint.
    """

    prompt: str
    negative: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a prompt that is not text."""
        if not isinstance(self.prompt, str):
            raise ValueError(
                f"prompt must be text; got {type(self.prompt).__name__}. Run several prompts one by one"
            )
