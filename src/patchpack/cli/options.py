"""Options that some models have no use for: said, and not passed over."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from patchpack.inference.predictor import Predictor


def refuse_others(
    options: Any, model: Predictor, uses: Mapping[str, tuple[type[Predictor], ...]]
) -> None:
    """Raise ValueError for an option that was given to a model that has no use for it.

    options  a verb's, of a model in the folder `options.run`
    uses     names of options, and the models that have one
    """
    for field in fields(options):
        kinds = uses.get(field.name)
        if kinds and getattr(options, field.name) != field.default and not isinstance(model, kinds):
            theirs = " and ".join(kind.kinds for kind in kinds)
            name = field.name.replace("_", "-")
            raise ValueError(f"--{name} is for {theirs}; {options.run} is {model.kind}")
