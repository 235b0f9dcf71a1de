"""The type of one request that cannot be met."""

Row = tuple[str, str, str]
"""Command, its arguments, and words that the message contains; see ``bad_requests``."""
