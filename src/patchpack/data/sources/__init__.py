"""Where records come from: folders, manifests, COCO files. One file a source."""
