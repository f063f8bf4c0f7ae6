"""Texts to numbers of a vocabulary.

    train_tokenizer(texts, 4096)       a byte-level BPE of the user's own captions
    load_tokenizer("tokenizer.json")   of Hugging Face
    load_tokenizer("spiece.model")     SentencePiece, as T5's 32,000 (the paper, App. A.2)
    load_tokenizer("merges.txt.gz")    CLIP's byte-pair merges, lower-cased

The last token of a text is the end-of-text one wherever the tokenizer has it, also of a text that
is cut. Needs `patchpack[text]`.
"""

import base64
import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from patchpack.batch import PackedTexts, pack_texts

END = "<|endoftext|>"
START = "<|startoftext|>"
CLIP_MERGES = 49_152 - 256 - 2  # of the file that CLIP's tokenizer reads; it ignores the rest


class TokenizerError(ValueError):
    """A tokenizer that cannot be read or used, and why."""


class TokenizedTexts(NamedTuple):
    """Texts as numbers."""

    tokens: list[list[int]]  # of each text
    cut: list[bool]  # whether a text was longer


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as a model's card keeps it: which library reads it, and what that reads."""

    kind: Literal["tokenizers", "sentencepiece"]
    content: str  # JSON, or a model in base 64

    @property
    def vocab_size(self) -> int:
        """One more than the largest number of a token."""
        if self.kind == "sentencepiece":
            return len(self._engine)
        return max(self._engine.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, texts: Sequence[str], max_length: int) -> TokenizedTexts:
        """At most `max_length` tokens of each text; none at all where nothing is left of one."""
        if self.kind == "tokenizers":
            if (own := self._own_tokens) >= max_length:
                raise TokenizerError(
                    f"texts of {max_length} tokens have no room for a word beside the {own} that "
                    "the tokenizer puts around it: raise task.text.max_length"
                )
            try:
                self._engine.enable_truncation(max_length)
                found = self._engine.encode_batch(list(texts))
            except Exception as error:  # the library raises nothing narrower
                raise TokenizerError(f"a text cannot be told in tokens: {error}") from None
            return TokenizedTexts([e.ids for e in found], [bool(e.overflowing) for e in found])
        whole = self._engine.encode(list(texts))
        end = [self._engine.eos_id()] if self._engine.eos_id() >= 0 else []
        most = max_length - len(end)
        return TokenizedTexts(
            [[*tokens[:most], *end] if tokens else [] for tokens in whole],
            [len(tokens) > most for tokens in whole],
        )

    @cached_property
    def _own_tokens(self) -> int:
        """Tokens that every text gets beside its own."""
        self._engine.no_truncation()
        return len(self._engine.encode("").ids)

    @cached_property
    def _engine(self) -> Any:
        try:
            if self.kind == "tokenizers":
                from tokenizers import Tokenizer as Engine

                engine = Engine.from_str(self.content)
                engine.no_padding()  # texts are packed
                return engine
            from sentencepiece import SentencePieceProcessor

            return SentencePieceProcessor(model_proto=base64.b64decode(self.content))
        except ImportError as error:
            raise _missing(error) from error
        except Exception as error:  # neither library raises anything narrower
            raise TokenizerError(f"not a tokenizer of {self.kind}: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of these texts: any text can be told in it, also one never seen."""
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
    """A tokenizer.json, a SentencePiece .model, or CLIP's merges (.txt, .txt.gz)."""
    try:
        data = path.read_bytes()
        if path.suffix == ".model":
            found = Tokenizer("sentencepiece", base64.b64encode(data).decode())
        elif path.suffix == ".json":
            found = Tokenizer("tokenizers", data.decode())
        else:
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            found = _clip(text.decode())
        if found.vocab_size < 1:
            raise TokenizerError("it has no tokens")
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from error
    except (TokenizerError, ValueError) as error:
        raise TokenizerError(f"{path}: {error}") from error
    return found


def _clip(text: str) -> Tokenizer:
    """CLIP's tokenizer: bytes, bytes that end a word, merges, and two special tokens."""
    try:
        from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
        from tokenizers import Tokenizer as Engine
    except ImportError as error:
        raise _missing(error) from error
    lines = [line.split() for line in text.splitlines()[1 : CLIP_MERGES + 1]]
    merges = [(pair[0], pair[1]) for pair in lines if len(pair) == 2]
    if not merges or len(merges) != len(lines):
        raise TokenizerError("not a file of merges: a first line of its version, then pairs")
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
    """The letter that stands for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def _missing(error: ImportError) -> ImportError:
    return ImportError(f"texts need more libraries: pip install 'patchpack[text]' ({error})")


def find_tokenizer(folder: Path) -> Path | None:
    """The file that `write_tokenizer` left in a folder."""
    kept = (folder / name for name in ("tokenizer.json", "tokenizer.model"))
    return next((path for path in kept if path.exists()), None)


def tokenize_and_pack(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> PackedTexts:
    """Texts as a tower reads them; raises ValueError for one of which nothing is left."""
    tokens = tokenizer.encode([text.strip() for text in texts], max_length).tokens
    for text, numbers in zip(texts, tokens, strict=True):
        if not text.strip() or not numbers:
            raise ValueError(f"the text {text!r} is empty")
    return pack_texts([torch.tensor(numbers, dtype=torch.int32) for numbers in tokens])


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write a tokenizer as the file that `load_tokenizer` reads."""
    if tokenizer.kind == "tokenizers":
        path = folder / "tokenizer.json"
        path.write_text(tokenizer.content, encoding="utf-8")
    else:
        path = folder / "tokenizer.model"
        path.write_bytes(base64.b64decode(tokenizer.content))
    return path
