"""Weights of other libraries, converted exactly: one file per family, each a pure function.

    source on disk → Source (config, preprocessing, tensors) → family → Converted → run folder

A family consumes every tensor and every config key, or raises PretrainedError with its name. What
differs from this library only in form is folded into the weights (`folds.py`).
"""
