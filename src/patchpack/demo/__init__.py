"""The whole library on generated images: a minute or two, no downloads."""
