"""The embedded pool's refusals, in words."""

from __future__ import annotations

from imgstored.errors import ImageHasDependentClonesError, PoolError


def refuse_dependents(uuid: str, names: list[str]) -> None:
    """Raises `ImageHasDependentClonesError`, in imgadm's words, if there are any."""
    if names:
        others = f" and {len(names) - 1} others..." if len(names) > 1 else ""
        raise ImageHasDependentClonesError(
            f'image "{uuid}" has dependent clones: {names[0]}{others}',
            hint="delete these first",
            data={"dependents": names},
        )


def incomplete(uuid: str, pool: str) -> PoolError:
    """What was to be published is not all there."""
    return PoolError(
        f'image "{uuid}" is not completely in pool "{pool}"', hint="it has to be received (again) first"
    )


def damaged(uuid: str, pool: str) -> PoolError:
    """The files of a published image are not what they were."""
    return PoolError(f'image "{uuid}" is damaged in pool "{pool}"', hint="delete it, and import it again")
