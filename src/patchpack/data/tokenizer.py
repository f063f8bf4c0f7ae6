"""Tokenizers: texts to token ids.

    train_tokenizer(texts, 4096)       byte-level BPE trained on the dataset's captions
    load_tokenizer("tokenizer.json")   Hugging Face tokenizers
    load_tokenizer("spiece.model")     SentencePiece, as T5's with 32,000 tokens (paper, App. A.2)
    load_tokenizer("merges.txt.gz")    CLIP's byte-pair merges, lower-cased

Each text, truncated or not, ends with the end-of-text token if the tokenizer has one.
Needs `patchpack[text]`.
"""

import base64
import gzip
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import torch

from patchpack.batch import PackedTexts, pack_texts
from patchpack.regular_files import open_regular

END = "<|endoftext|>"
START = "<|startoftext|>"
MAX_BYTES = 64 * 2**20  # of a tokenizer file
CLIP_MERGES = 49_152 - 256 - 2  # merges that CLIP's tokenizer reads; it ignores the others


class TokenizerError(ValueError):
    """A tokenizer that cannot be read or used; the message gives the reason."""


class TokenizedTexts(NamedTuple):
    """Token ids of texts."""

    tokens: list[list[int]]  # token ids of each text
    truncated: list[bool]  # whether each text was longer than the maximum length


@dataclass(frozen=True)
class Tokenizer:
    """A serializable tokenizer: the library that reads it and that library's file."""

    kind: Literal["tokenizers", "sentencepiece"]  # library
    content: str  # tokenizer.json, or a SentencePiece model in base 64

    @property
    def vocab_size(self) -> int:
        """The largest token id plus 1."""
        if self.kind == "sentencepiece":
            return len(self._engine)
        return max(self._engine.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, texts: Sequence[str], max_length: int) -> TokenizedTexts:
        """Tokenize texts, truncated to `max_length` tokens; an empty text may give no tokens."""
        if self.kind == "tokenizers":
            if (special := self._num_special_tokens) >= max_length:
                raise TokenizerError(
                    f"a maximum length of {max_length} tokens leaves no tokens for words, since "
                    f"the tokenizer adds {special} to each text: raise task.text.max_length"
                )
            try:
                encoded = self._engine_truncated(max_length).encode_batch(list(texts))
            except Exception as error:  # the library raises no narrower type
                raise TokenizerError(f"a text could not be tokenized: {error}") from None
            return TokenizedTexts([e.ids for e in encoded], [bool(e.overflowing) for e in encoded])
        encoded = self._engine.encode(list(texts))
        end = [self._engine.eos_id()] if self._engine.eos_id() >= 0 else []
        limit = max_length - len(end)
        return TokenizedTexts(
            [[*tokens[:limit], *end] if tokens else [] for tokens in encoded],
            [len(tokens) > limit for tokens in encoded],
        )

    @cached_property
    def _num_special_tokens(self) -> int:
        """Special tokens added to every text."""
        return len(self._engine.encode("").ids)

    def _engine_truncated(self, max_length: int) -> Any:
        """The engine of one maximum length; it is made once, as threads may share it."""
        engines = self._engines
        if max_length not in engines:
            engine = self._read_engine()
            engine.enable_truncation(max_length)
            engines.setdefault(max_length, engine)
        return engines[max_length]

    @cached_property
    def _engines(self) -> dict[int, Any]:
        return {}

    @cached_property
    def _engine(self) -> Any:
        return self._read_engine()

    def _read_engine(self) -> Any:
        try:
            if self.kind == "tokenizers":
                from tokenizers import Tokenizer as Engine

                engine = Engine.from_str(self.content)
                engine.no_padding()  # texts are packed
                engine.no_truncation()
                return engine
            from sentencepiece import SentencePieceProcessor

            return SentencePieceProcessor(model_proto=base64.b64decode(self.content))
        except ImportError as error:
            raise _missing(error) from error
        except Exception as error:  # neither library raises a narrower type
            raise TokenizerError(f"not a tokenizer of {self.kind}: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on texts; it can tokenize any text."""
    try:
        from tokenizers import Tokenizer as Engine
        from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
    except ImportError as error:
        raise _missing(error) from error
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise TokenizerError(
            f"vocab_size is {vocab_size}, but a byte-level vocabulary needs more than "
            f"{len(alphabet)}"
        )
    engine = Engine(models.BPE())
    engine.normalizer = normalizers.NFC()
    engine.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=sorted(alphabet),
        show_progress=False,
    )  # fmt: skip
    engine.train_from_iterator(texts, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, engine.token_to_id(END))]
    )
    return Tokenizer("tokenizers", engine.to_str())


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json, a SentencePiece .model, or CLIP's merges (.txt, .txt.gz)."""
    try:
        with open_regular(path) as file:
            data = _bounded(file)
        if path.suffix == ".model":
            tokenizer = Tokenizer("sentencepiece", base64.b64encode(data).decode())
        elif path.suffix == ".json":
            tokenizer = Tokenizer("tokenizers", data.decode())
        else:
            if path.suffix == ".gz":
                data = _bounded(gzip.open(io.BytesIO(data)))
            tokenizer = _clip(data.decode())
        if tokenizer.vocab_size < 1:
            raise TokenizerError("it has no tokens")
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from error
    except (TokenizerError, ValueError) as error:
        raise TokenizerError(f"{path}: {error}") from error
    return tokenizer


def _bounded(file: BinaryIO | gzip.GzipFile) -> bytes:
    """The contents of a file; raise TokenizerError for more than a tokenizer has."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TokenizerError(f"it has more than {MAX_BYTES:,} bytes")
    return data


def _clip(text: str) -> Tokenizer:
    """Build CLIP's tokenizer: bytes, word-final bytes, merges, and two special tokens."""
    try:
        from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
        from tokenizers import Tokenizer as Engine
    except ImportError as error:
        raise _missing(error) from error
    lines = [line.split() for line in text.splitlines()[1 : CLIP_MERGES + 1]]
    merges = [(pair[0], pair[1]) for pair in lines if len(pair) == 2]
    if not merges or len(merges) != len(lines):
        raise TokenizerError("not a file of merges, which has a version line and then pairs")
    letters = _byte_letters()
    names = letters + [letter + "</w>" for letter in letters]
    names += [a + b for a, b in merges] + [START, END]
    vocabulary = {name: number for number, name in enumerate(names)}
    engine = Engine(
        models.BPE(
            vocabulary, merges, unk_token=END, continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )  # fmt: skip
    engine.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    engine.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    engine.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(n, vocabulary[n]) for n in (START, END)]
    )
    return Tokenizer("tokenizers", engine.to_str())


def _byte_letters() -> list[str]:
    """Return the character of each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def _missing(error: ImportError) -> ImportError:
    return ImportError(f"texts need further packages: pip install 'patchpack[text]' ({error})")


def find_tokenizer(folder: Path) -> Path | None:
    """Return the tokenizer file in a folder written by `write_tokenizer`, or None."""
    paths = (folder / name for name in ("tokenizer.json", "tokenizer.model"))
    return next((path for path in paths if path.exists()), None)


def tokenize_and_pack(
    texts: Sequence[str], tokenizer: Tokenizer, *, max_length: int, vocab_size: int
) -> PackedTexts:
    """Tokenize texts and pack them for a text tower.

    max_length  maximum tokens per text
    vocab_size  tokens in the vocabulary of the text tower

    Raise ValueError for an empty text, and TokenizerError for a token beyond the vocabulary.
    """
    tokens = tokenizer.encode([text.strip() for text in texts], max_length).tokens
    for text, ids in zip(texts, tokens, strict=True):
        if not text.strip() or not ids:
            raise ValueError(f"the text {text!r} is empty")
        if max(ids) >= vocab_size:
            raise TokenizerError(
                f"the tokenizer gives token {max(ids):,} for {text!r}, but the model's vocabulary "
                f"has {vocab_size:,}: it is the tokenizer of another model"
            )
    return pack_texts([torch.tensor(ids, dtype=torch.int32) for ids in tokens])


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write a tokenizer to a file that `load_tokenizer` reads."""
    if tokenizer.kind == "tokenizers":
        path = folder / "tokenizer.json"
        path.write_text(tokenizer.content, encoding="utf-8")
    else:
        path = folder / "tokenizer.model"
        path.write_bytes(base64.b64decode(tokenizer.content))
    return path
