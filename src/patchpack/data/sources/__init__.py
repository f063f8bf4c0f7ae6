"""Sources of records: folders, manifests and COCO files, and the assignment of splits."""
