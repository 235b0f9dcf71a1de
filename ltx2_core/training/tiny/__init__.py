"""The making of the embedded tiny set: its stages, its sizes and its recipe."""
