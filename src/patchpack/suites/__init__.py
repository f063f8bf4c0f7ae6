"""Suites of evaluation: what a trained model is worth, one file a question."""
