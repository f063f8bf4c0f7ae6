"""Trained models in use: what all predictors share, image files, output files."""
