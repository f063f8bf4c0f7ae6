"""Evaluation of trained models: metrics at token budgets, and suites of them.

data = data_of(run, split="test")
evaluate(load(run), data, budgets=(64, 256))
"""

from patchpack.evaluation.budgets import evaluate as evaluate
from patchpack.evaluation.run_data import data_of as data_of
