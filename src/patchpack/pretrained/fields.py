"""The config of a source, read key by key: an unknown key or value is an error, never a guess."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from patchpack.pretrained.errors import PretrainedError
from patchpack.serialization import nearest

T = TypeVar("T", bool, int, float, str)
Entry = TypeVar("Entry")

# Keys of transformers' configs that change no inference: bookkeeping, training, text generation.
BOOKKEEPING = frozenset(
    """_attn_implementation _commit_hash _name_or_path add_cross_attention architectures
    attention_dropout attention_probs_dropout_prob auto_map bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample drop_path_rate dtype early_stopping encoder_no_repeat_ngram_size
    encoder_stride eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id hidden_dropout_prob id2label initializer_factor
    initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length min_length
    model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type
    pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16""".split()
)


class Fields:
    """Reads each key once, with its type checked; `finish` rejects the keys that nobody read.

    source   file or folder, for messages
    ignored  keys that change no output
    """

    def __init__(
        self, values: Mapping[str, Any], source: str, ignored: Collection[str] = ()
    ) -> None:
        self.values, self.source, self.ignored = values, source, frozenset(ignored)
        self._read: set[str] = set()

    def take(self, name: str, default: T) -> T:
        """The value of a key, of the type of `default`; an integer counts as a float."""
        self._read.add(name)
        value = self.values.get(name, default)
        expected = type(default)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # pyrefly: ignore
        if type(value) is not expected:
            raise self._error(name, value, f"expected a value like {default!r}")
        return value

    def require(self, name: str, kind: type[T]) -> T:
        """The value of a key that has no default."""
        if name not in self.values:
            raise PretrainedError(f"{self.source}: the config lacks {name!r}")
        return self.take(name, kind())

    def raw(self, name: str, default: Any = None) -> Any:
        """The value of a key, whose type the caller checks."""
        self._read.add(name)
        return self.values.get(name, default)

    def side(self, name: str, default: int | None = None) -> int:
        """A side in pixels; both sides of a pair must be equal."""
        if default is None and name not in self.values:
            raise PretrainedError(f"{self.source}: the config lacks {name!r}")
        self._read.add(name)
        value = self.values.get(name, default)
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if type(value) is not int or value < 1:
            raise self._error(name, value, "expected a side of a square in pixels")
        return value

    def fixed(self, name: str, *accepted: object) -> None:
        """Reject a key that has another value than those accepted; the first is the default."""
        self._read.add(name)
        if (value := self.values.get(name, accepted[0])) not in accepted:
            raise self._error(name, value, f"supported: {', '.join(map(repr, accepted))}")

    def choice(self, name: str, choices: Mapping[str, Entry], default: str) -> Entry:
        """The entry of a table that a key names."""
        value = self.take(name, default)
        if value not in choices:
            raise self._error(name, value, nearest(value, choices).removeprefix("; "))
        return choices[value]

    def finish(self) -> None:
        """Raise PretrainedError for keys that are neither read nor ignored."""
        if unknown := sorted(set(self.values) - self._read - self.ignored):
            raise PretrainedError(
                f"{self.source}: the config has {', '.join(map(repr, unknown))}, which this family "
                "does not read: the model may compute something else"
            )

    def _error(self, name: str, value: object, hint: str) -> PretrainedError:
        return PretrainedError(f"{self.source}: the config has {name} {value!r}; {hint}")
