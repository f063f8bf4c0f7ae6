"""A predictor evaluated at several token budgets, by the evaluator of its task."""

from collections.abc import Sequence

from patchpack.data.records import BadDataset
from patchpack.inference.measure import CostMeter, EvalData
from patchpack.inference.predictor import Predictor
from patchpack.tasks.registry import task_of
from patchpack.tasks.task import Evaluation, Evaluator


def evaluate(
    predictor: Predictor, data: EvalData, budgets: Sequence[int], options: object | None = None
) -> list[Evaluation]:
    """The task's metrics at each budget.

    budgets  maximum tokens per image or clip
    options  the task's `eval_options`; None: their defaults

    Raises BadDataset for data without the task's annotations, and where too many items cannot be
    read.
    """
    return evaluate_with(*evaluator_of(predictor, data, options), predictor, data, budgets)


def evaluator_of(
    predictor: Predictor, data: EvalData, options: object | None = None
) -> tuple[Evaluator, Sequence]:
    """The evaluator of a predictor's task on data, and the items that it cannot use."""
    task = task_of(predictor.spec.task)
    return task.evaluation(predictor, data, options or task.eval_options())


def evaluate_with(
    evaluator: Evaluator,
    skipped: Sequence,
    predictor: Predictor,
    data: EvalData,
    budgets: Sequence[int],
) -> list[Evaluation]:
    """The metrics of an evaluator at each budget; `skipped` counts as unreadable."""
    unreadable = data.unreadable()
    unreadable.add(skipped)
    evaluations = []
    for tokens in budgets:
        meter = CostMeter(predictor, len(evaluator.start_fractions))
        batches = evaluator.batches(predictor, tokens, unreadable)
        result = evaluator.run(predictor, meter.over(batches))
        if not meter.images:
            raise BadDataset(f"no {data.index.item_name} of {data.index.root} can be read")
        evaluations.append(Evaluation(meter.cost(tokens, unreadable), result))
    return evaluations
