"""Training: a synthetic world whose truth is known, and the recipes that learn it."""
