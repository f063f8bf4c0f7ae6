"""Training two towers on images and their texts.

A run's tokenizer is kept in its folder, and read from there when it is resumed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
from patchpack.distributed import World, all_gather_objects, all_gather_rows
from patchpack.inference.model_spec import ModelSpec
from patchpack.metrics.retrieval import encode_captions, recalls, select_readable
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.contrastive.model import Contrastive, ContrastiveConfig
from patchpack.tasks.task import Judged, build_spec, validation_batches
from patchpack.train.config import RunConfig
from patchpack.train.precision import autocast


class ContrastivePretraining:
    """A Job: images and texts to near vectors. Raises BadDataset for data without pairs."""

    metric = "mean_recall"  # of few pairs, recall at a single k is mostly chance

    def __init__(
        self,
        index: Index,
        config: RunConfig,
        task: ContrastiveConfig,
        world: World,
        resumed: bool,
    ) -> None:
        self.config, self.task, self.resumed = config, task, resumed
        index = replace(index, labels=np.full_like(index.labels, -1), classes=())
        texts = read_captions(index)
        self.tokenizer = self._tokenizer(index, texts, world)
        size, most = self.tokenizer.vocab_size, task.text.vocab_size
        if size > most:
            raise BadDataset(
                f"the tokenizer has {size:,} tokens, but the model's vocabulary {most:,}: "
                f"set task.text.vocab_size to {size}"
            )
        pairs = attach_captions(index, texts, self.tokenizer, task.text.max_length)
        self.skipped = [BadImage(key, reason) for key, reason in pairs.without_text.items()]
        bad = BadImages(index.root, dict.fromkeys(index.keys), config.data.max_bad_fraction)
        bad.add(self.skipped)
        lengths = pairs.index.annotation(Captions).lengths
        longest, room = int(lengths.max()), config.data.max_text_tokens
        if room is not None and longest > room:
            raise BadDataset(
                f"a text has {longest} tokens, but a pack may hold {room} of texts: raise "
                "data.max_text_tokens or lower task.text.max_length"
            )
        self.train = pairs.index.split(config.data.train_split)
        self.val = pairs.index.split(config.data.val_split)
        self.messages = []
        if pairs.truncated:
            self.messages.append(
                f"{pairs.truncated:,} of {len(lengths):,} texts were "
                f"longer than {task.text.max_length} tokens, and are cut"
            )

    def _tokenizer(self, index: Index, texts: list[tuple[str, ...]], world: World) -> Tokenizer:
        """The run's own where it is resumed, the user's, or one of the texts of the train split."""
        data = self.config.data
        path = data.tokenizer
        if self.resumed:
            path = find_tokenizer(self.config.out) or path
        if path is not None:
            return load_tokenizer(path)
        names = set(index.split(data.train_split).keys)
        learned = [text for key, many in zip(index.keys, texts, strict=True) if key in names
                   for text in many]  # fmt: skip
        trained = [train_tokenizer(learned, self.task.text.vocab_size)] if world.is_main else []
        return all_gather_objects(trained, world)[0]

    def build(self) -> BackboneModule:
        return Contrastive(self.config.model, self.task)

    def head_matches(self, spec: dict[str, Any]) -> bool:
        return (spec.get("tokenizer") or {}).get("content") == self.tokenizer.content

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Recall of the validation split's pairs, the mean of both directions."""
        module.eval()
        encoded: list[Tensor] = []
        numbered: list[int] = []
        bad: list[BadImage] = []
        numbers = {key: number for number, key in enumerate(self.val.keys)}
        with torch.inference_mode(), autocast(world.device, dtype):
            for pack in validation_batches(self.val, self.config, world):
                bad.extend(pack.unreadable)
                encoded.append(module(pack.batch.to(world.device)))
                numbered += [numbers[key] for key in pack.batch.keys]
            texts, pairs = encode_captions(module, self.val.annotation(Captions), world.device)
        mine = torch.cat(encoded) if encoded else texts.new_empty(0, texts.shape[1])
        vectors, _ = all_gather_rows(mine)
        images = all_gather_objects(numbered, world)
        found_at = recalls(*select_readable(vectors, texts, pairs, images)) if images else {}
        values = {name: share for name, share in found_at.items() if "recall" in name}
        return Judged(values, all_gather_objects(bad, world))

    def spec(self, dtype: str) -> ModelSpec:
        return build_spec(self.config, dtype, tokenizer=self.tokenizer)

    def write(self, folder: Path) -> None:
        write_tokenizer(self.tokenizer, folder)
