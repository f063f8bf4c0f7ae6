"""Metrics as pure functions of labels, probabilities, features, masks and boxes."""
