"""Changes of an image together with its annotations: augmentation, mosaics, perturbations."""
