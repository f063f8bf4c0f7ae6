"""The error of a source that is not converted."""


class PretrainedError(ValueError):
    """A source is incomplete, damaged, contradictory or of an unknown family; nothing is loaded."""
