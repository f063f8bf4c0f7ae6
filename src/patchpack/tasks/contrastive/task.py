"""Training an image-text model on images and their captions.

A run keeps its tokenizer in its folder, and reads it from there when it is resumed.
"""

from dataclasses import replace

import numpy as np

from patchpack.data.annotations.captions import Captions, attach_captions, read_captions
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.tokenizer import (
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    train_tokenizer,
    write_tokenizer,
)
from patchpack.distributed import all_gather_objects
from patchpack.inference.model_spec import ModelSpec
from patchpack.tasks.contrastive.evaluator import ContrastiveEvaluator
from patchpack.tasks.contrastive.model import Contrastive, ContrastiveConfig
from patchpack.tasks.task import TaskContext, TaskRun, annotated_split


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """Images and their captions; raises BadDataset for data without captions."""
    task, data = context.task, context.data
    index = replace(index, labels=np.full_like(index.labels, -1), classes=())
    texts = read_captions(index)
    tokenizer = _tokenizer(index, texts, context)
    if tokenizer.vocab_size > task.text.vocab_size:
        raise BadDataset(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, but the model's vocabulary "
            f"{task.text.vocab_size:,}: set task.text.vocab_size to {tokenizer.vocab_size}"
        )
    pairs = attach_captions(index, texts, tokenizer, task.text.max_length)
    skipped = [BadImage(key, reason) for key, reason in pairs.without_text.items()]
    BadImages(index.root, dict.fromkeys(index.keys), data.max_bad_fraction).add(skipped)
    lengths = pairs.index.annotation(Captions).lengths
    longest, budget = int(lengths.max()), data.max_text_tokens
    if budget is not None and longest > budget:
        raise BadDataset(
            f"a text has {longest} tokens, but data.max_text_tokens is {budget}: raise "
            "data.max_text_tokens or lower task.text.max_length"
        )
    message = (
        f"truncated: {pairs.truncated:,} of {len(lengths):,} texts, to "
        f"{task.text.max_length} tokens"
    )
    return TaskRun(
        train=annotated_split(pairs.index, index, data.train_split, "a text"),
        val=annotated_split(pairs.index, index, data.val_split, "a text"),
        task=task,
        tokenizer=tokenizer,
        skipped=skipped,
        messages=[message] if pairs.truncated else [],
        write=lambda folder: write_tokenizer(tokenizer, folder),
    )


def _tokenizer(index: Index, texts: list[tuple[str, ...]], context: TaskContext) -> Tokenizer:
    """The run's own where it is resumed, the user's, or one trained on the training split."""
    path = context.data.tokenizer
    if context.resumed:
        path = find_tokenizer(context.out) or path
    if path is not None:
        return load_tokenizer(path)
    names = set(index.split(context.data.train_split).keys)
    captions = [
        text
        for key, captions in zip(index.keys, texts, strict=True)
        if key in names
        for text in captions
    ]
    trained = []
    if context.world.is_main:
        trained = [train_tokenizer(captions, context.task.text.vocab_size)]
    return all_gather_objects(trained, context.world)[0]


def build(spec: ModelSpec) -> Contrastive:
    """The module of a spec, with new weights."""
    assert isinstance(spec.task, ContrastiveConfig)
    if spec.tokenizer is None:
        raise ValueError("an image-text model needs its tokenizer")
    return Contrastive(spec.model, spec.task)


def run_evaluator(run: TaskRun) -> ContrastiveEvaluator:
    """Recall over the validation split."""
    return ContrastiveEvaluator(run.val, run.val)
