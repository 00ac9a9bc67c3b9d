"""docs/errors.md, from imgstored/errors.py. Pure: no I/O."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from imgstored import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Errors

Each error has a name for programs: imgadm's name, if imgadm has the error. `imgctl` prints

```text
imgctl COMMAND: error (NAME): what is wrong
  hint: what to do about it
```

on standard error, and exits with the exit status. On the socket an error is a map
([the socket](protocol.md)); in Python it is an exception of `imgctl.errors`, one class for each name
([the client](library.md)).
Several kinds of fault may share a name, and their messages differ. `python -m docs.make` makes this page from
`imgstored/errors.py`.

| name | exit status | when |
| --- | --- | --- |
"""


def page() -> str:
    """The page: each name once, with what the classes of that name are for."""
    rows: dict[str, tuple[int, list[str]]] = {}
    for error in _all():
        status, said = rows.setdefault(error.code, (error.exit_status, []))
        assert status == error.exit_status, f"{error.code} has two exit statuses"
        said.append(_first(error))
    return _HEAD + "".join(
        f"| `{name}` | {status} | {' '.join(said)} |\n" for name, (status, said) in sorted(rows.items())
    )


def _all() -> Iterator[type[errors.ImgstoreError]]:
    # A server's refusal has the name that the server gave it.
    others = (errors.ImgstoreError, errors.RefusedError)
    for each in vars(errors).values():
        if inspect.isclass(each) and issubclass(each, errors.ImgstoreError) and each not in others:
            yield each


def _first(error: type[errors.ImgstoreError]) -> str:
    said = " ".join((inspect.getdoc(error) or "").split())
    return said.replace("|", r"\|")
