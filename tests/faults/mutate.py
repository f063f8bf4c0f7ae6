"""Mutations of any file, as functions of a random generator: bytes → bytes."""

from collections.abc import Callable, Sequence

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]
HEADER = 400  # bytes in which headers lie


def flip_header_bits(data: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, rng, min(len(data), HEADER))


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, rng, len(data))


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def zero_range(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + bytes([int(rng.choice([0, 255]))]) * (stop - start) + data[stop:]


def repeat_range(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] * int(rng.integers(1, 5)) + data[stop:]


def delete_range(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def insert_junk(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def append_junk(data: bytes, rng: np.random.Generator) -> bytes:
    """Readers ignore what follows a file."""
    return data + rng.bytes(int(rng.integers(1, 5000)))


def lie_about_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Write an extreme number over two or four bytes of the header."""
    width = int(rng.choice([2, 4]))
    at = int(rng.integers(0, max(1, min(len(data), HEADER) - width)))
    number = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])) % (1 << 8 * width)
    return data[:at] + number.to_bytes(width, rng.choice(["little", "big"])) + data[at + width :]


DAMAGES: tuple[Mutation, ...] = (
    flip_header_bits, flip_bits, truncate, zero_range, repeat_range, delete_range, insert_junk,
    lie_about_numbers,
)  # fmt: skip


def splice(first: bytes, second: bytes, rng: np.random.Generator) -> bytes:
    """The start of one file and the end of another."""
    return first[: int(rng.integers(1, len(first)))] + second[int(rng.integers(0, len(second))) :]


def any_of(choices: Sequence, rng: np.random.Generator):
    """One of any sequence; NumPy's own choice turns values into arrays."""
    return choices[int(rng.integers(len(choices)))]


def _flip(data: bytes, rng: np.random.Generator, within: int) -> bytes:
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 6)) if within else 0):
        damaged[int(rng.integers(within))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _range(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, max(1, len(data))))
    return start, min(len(data), start + int(rng.integers(1, 200)))
