"""The recipe of the embedded tiny set: its configuration, its stages, their sizes and numbers of steps."""
