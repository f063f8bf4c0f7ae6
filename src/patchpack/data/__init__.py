"""Datasets to packed batches: sources, annotations, transforms, packing plans, loading."""
