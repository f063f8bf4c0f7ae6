"""Videos: decoding, frame sampling, tubelets."""
