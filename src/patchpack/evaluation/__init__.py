"""A run's best weights on images they were not trained on, at several token budgets.

    data = data_of(run, split="test")
    classify_at(classifier, data, budgets=(64, 256))
    retrieve_at(towers, data, pairs_of(towers, data), budgets)
    zero_shot_at(towers, data, templates, budgets)
    segment_at(segmenter, data, budgets)
    detect_at(detector, data, budgets)

A classifier is asked for the label; two towers, which texts belong to which images, and which name
of a class is nearest to an image; a segmenter, which class each pixel has; a detector, where
objects are. Every image is seen once at each budget, and those that cannot be read are named.
"""

from patchpack.evaluation.run_data import Cost as Cost
from patchpack.evaluation.run_data import Data as Data
from patchpack.evaluation.run_data import data_of as data_of
from patchpack.evaluation.run_data import packed as packed
from patchpack.tasks.classification.evaluator import BudgetResult as BudgetResult
from patchpack.tasks.classification.evaluator import classify_at as classify_at
from patchpack.tasks.classification.evaluator import relabel as relabel
from patchpack.tasks.classification.evaluator import zero_shot_at as zero_shot_at
from patchpack.tasks.contrastive.evaluator import RetrievalResult as RetrievalResult
from patchpack.tasks.contrastive.evaluator import pairs_of as pairs_of
from patchpack.tasks.contrastive.evaluator import retrieve_at as retrieve_at
from patchpack.tasks.detection.evaluator import BoxResult as BoxResult
from patchpack.tasks.detection.evaluator import detect_at as detect_at
from patchpack.tasks.segmentation.evaluator import PixelResult as PixelResult
from patchpack.tasks.segmentation.evaluator import segment_at as segment_at
