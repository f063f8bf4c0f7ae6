"""Tokenizers: trained, Hugging Face, SentencePiece and CLIP; saved in full in a checkpoint."""

import gzip
import io
import json

import pytest

from patchpack.data.tokenizer import (
    END,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    train_tokenizer,
    write_tokenizer,
)
from patchpack.serialization import from_json, to_json

TEXTS = ["a red box", "a blue box", "the boxes are red and blue"] * 5


def test_a_trained_tokenizer_encodes_any_text_with_an_end_token():
    tokenizer = train_tokenizer(TEXTS, 270)
    assert tokenizer == train_tokenizer(TEXTS, 270) and tokenizer.vocab_size == 270
    encoded = tokenizer.encode(["a red box", "naïve 🃏", ""], 50)
    assert [tokens[-1] for tokens in encoded.tokens] == [0, 0, 0] and not any(encoded.truncated)
    assert len(encoded.tokens[0]) < len("a red box") and len(encoded.tokens[1]) > 5
    short = tokenizer.encode(["naïve 🃏"], 4)
    assert short.truncated == [True] and short.tokens[0] == [*encoded.tokens[1][:3], 0]


def test_a_vocabulary_too_small_for_bytes_raises():
    with pytest.raises(TokenizerError, match="needs more than 256"):
        train_tokenizer(TEXTS, 256)


def test_a_tokenizer_round_trips_through_a_checkpoint_and_a_file(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 270)
    loaded = from_json(Tokenizer, json.loads(json.dumps(to_json(tokenizer))))
    assert loaded == load_tokenizer(write_tokenizer(tokenizer, tmp_path)) == tokenizer
    assert loaded.encode(TEXTS, 9) == tokenizer.encode(TEXTS, 9)


def test_sentencepiece(tmp_path):
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=20, minloglevel=2
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path / "spiece.model")
    assert tokenizer.vocab_size == 20
    engine = spm.SentencePieceProcessor(model_proto=model.getvalue())
    encoded = tokenizer.encode(["a red box", "   "], 50)
    assert encoded.tokens == [[*engine.encode("a red box"), engine.eos_id()], []]
    assert tokenizer.encode(["a red box"], 3).tokens == [[*engine.encode("a red box")[:2], 2]]
    assert load_tokenizer(write_tokenizer(tokenizer, tmp_path)) == tokenizer


def test_clip_merges(tmp_path):
    """In CLIP's vocabulary, the letters of `low` are 75, 78 and 256 + 86, the word-final w."""
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(gzip.compress(b"#version: 0.2\nl o\nlo w</w>\ne r</w>\n"))
    tokenizer = load_tokenizer(path)
    start, end = 515, 516  # after 2 · 256 letters and three merges
    assert tokenizer.vocab_size == 517
    assert tokenizer.encode(["LOW  lower"], 50).tokens == [[start, 513, 512, 86, 514, end]]
    assert tokenizer.encode(["ow"], 50).tokens == [[start, 78, 256 + 86, end]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", b"{}", "not a tokenizer of tokenizers"),
        ("t.json", b"\xff", "t.json: .*decode"),
        ("t.model", b"no model", "not a tokenizer of sentencepiece"),
        ("t.model", b"", "it has no tokens"),
        ("m.txt", b"", "not a file of merges"),
        ("m.txt", b"#version\na b c\n", "not a file of merges"),
        ("m.txt.gz", b"no gzip", "m.txt.gz"),
    ],
)
def test_invalid_tokenizer_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / name)
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path / "absent.json")


def test_end_of_text_is_part_of_the_vocabulary():
    content = json.loads(train_tokenizer(TEXTS, 300).content)
    assert content["model"]["vocab"][END] == 0


def test_padding_in_a_tokenizer_file_is_disabled(tmp_path):
    content = json.loads(train_tokenizer(TEXTS, 300).content)
    content["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
        "pad_type_id": 0, "pad_token": END,
    }  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(content))
    padding = load_tokenizer(tmp_path / "t.json")
    single = padding.encode(["red"], 50).tokens
    assert padding.encode(["red", "the boxes are red and blue"], 50).tokens[:1] == single
    assert len(single[0]) < 8


def test_vocab_size_is_the_largest_id_plus_one(tmp_path):
    content = json.loads(train_tokenizer(TEXTS, 300).content)
    vocabulary = content["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 5000
    (tmp_path / "t.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / "t.json").vocab_size == 5001


def test_texts_that_cannot_be_tokenized_raise():
    with pytest.raises(
        TokenizerError, match="leaves no tokens for words, since the tokenizer adds 1"
    ):
        train_tokenizer(TEXTS, 270).encode(["red"], 1)
    with pytest.raises(TokenizerError, match="a text could not be tokenized"):
        train_tokenizer(TEXTS, 270).encode(["lone \ud800"], 9)
