"""Names of optimizers, apart from the optimizers, so that the help of commands needs no torch."""

OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "muon", "prodigy")
