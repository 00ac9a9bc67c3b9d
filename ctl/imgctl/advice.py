"""What was perhaps meant by a word that is not known. Pure: no I/O.

Imported only where something went wrong: difflib takes longer to import than a listing takes to run.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Characters of a word beyond which nobody mistyped it: the comparison takes the square of them.
_LONGEST = 100

#: Words that are compared, and that are offered.
_COMPARED, _OFFERED = 20_000, 3


def close(word: str, known: Iterable[str]) -> list[str]:
    """The known words that look like this one, the closest first."""
    if len(word) > _LONGEST:
        return []
    words = [each for each in dict.fromkeys(known) if len(each) <= _LONGEST][:_COMPARED]
    lower = {each.lower(): each for each in reversed(words)}
    return [lower[each] for each in get_close_matches(word.lower(), [*lower], n=_OFFERED)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What was perhaps meant, as a question; empty where nothing looks like the word."""
    found = " or ".join(f'"{printable(each)}"' for each in close(word, known))
    return f"did you mean {found}?" if found else ""


def hint(word: str, known: Iterable[str], otherwise: str) -> str:
    """The question, where there is one, and what helps in any case."""
    return " ".join(filter(None, (did_you_mean(word, known), otherwise)))
