"""The released model files: a table of them, their download, and checks of what is on disk."""
