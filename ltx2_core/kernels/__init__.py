"""Triton kernels that join operations which read and write the same tokens, each beside its plain formula.

A file is one kernel: ``formula`` in plain torch, the kernel, and the function that launches it. ``trial.py``
compares both before a kernel is used; ``language.py`` says on which devices kernels run.
"""
