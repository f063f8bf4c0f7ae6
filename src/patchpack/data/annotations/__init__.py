"""What belongs to an image beside its pixels: captions, masks, boxes. One file an annotation."""
