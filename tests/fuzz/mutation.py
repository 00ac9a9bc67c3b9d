"""Inputs for the short runs: seeds, changed by chance, the same ones each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NUMBERS: Final = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 64) - 1,
)


def inputs(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """The seeds, and so many inputs made of them."""
    dice = random.Random(seed)
    yield b""
    yield from seeds
    for _ in range(count):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 2, 4, 9))):
            _change(data, seeds, dice)
        yield bytes(data)


def _change(data: bytearray, seeds: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randint(0, len(data))
    size = dice.randint(0, min(40, len(data) - at))
    match dice.randint(0, 6):
        case 0:
            data[at : at + size] = dice.randbytes(size)
        case 1:
            del data[at : at + size]
        case 2:
            data[at:at] = data[at : at + size] * dice.randint(1, 20)
        case 3:
            number = dice.choice(_NUMBERS)
            width = dice.choice((1, 2, 4, 8))
            data[at : at + width] = (number % (1 << 8 * width)).to_bytes(
                width, dice.choice(("little", "big"))
            )
        case 4 if at < len(data):
            data[at] ^= 1 << dice.randint(0, 7)
        case 5:
            other = dice.choice(seeds)
            start = dice.randint(0, len(other))
            data[at : at + size] = other[start : start + dice.randint(0, 60)]
        case _:
            del data[at:]
