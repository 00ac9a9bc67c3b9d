"""Text for people. Pure: no I/O.

Names, URLs and messages come from servers: whatever could steer a terminal, or pass for a line of ours, is
printed escaped.
"""

from __future__ import annotations

from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from imgctl.errors import CommandError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_TIMES = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


_UUID_DIGITS = frozenset("0123456789abcdef-")


def is_uuid(text: str) -> bool:
    """True if it is a full uuid, as imgadm writes it."""
    return [*map(len, text.split("-"))] == [8, 4, 4, 4, 12] and _UUID_DIGITS.issuperset(text)


def printable(value: object) -> str:
    r"""The value as text of one line: control and format characters as `\x1b` or `\u202e`."""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def size(count: int) -> str:
    """Bytes as imgadm says them: powers of 1024, one decimal that is cut off, none for zero."""
    if count <= 0:
        return "0 B"
    unit, scale = 0, 1
    while unit < len(_UNITS) - 1 and count >= scale * 1024:
        unit, scale = unit + 1, scale * 1024
    tenths = count * 10 // scale
    return f"{tenths // 10}.{tenths % 10} {_UNITS[unit]}"


def size_cell(count: object) -> str | None:
    """The same for a table; None where it is not known."""
    return size(count) if isinstance(count, int) else None


def rate_cell(bytes_a_second: object) -> str | None:
    """A rate for a table; None where there is none."""
    if not isinstance(bytes_a_second, (int, float)) or bytes_a_second < 1:
        return None
    return f"{size(int(bytes_a_second))}/s"


def share_cell(fraction: object, done: object, total: object) -> str | None:
    """The progress of an import in percent: 100 only once it is installed. An older daemon sends bytes."""
    if isinstance(fraction, (int, float)):
        return f"{int(100 * fraction)}%"
    return (
        f"{100 * done // total}%"
        if isinstance(done, int) and isinstance(total, int) and total
        else size_cell(done)
    )


def moment(seconds: object) -> str | None:
    """Seconds since the epoch in the form of manifests; None where they are none."""
    if not isinstance(seconds, (int, float)):
        return None
    from time import gmtime, strftime

    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))


def duration(seconds: object) -> str | None:
    """Seconds in the largest unit that fits, and the next one: "3d4h", "5m12s", "0s"."""
    if not isinstance(seconds, (int, float)):
        return None
    left = max(0, int(seconds))
    for (length, unit), (smaller, below) in pairwise(_TIMES):
        if left >= length:
            count, rest = divmod(left, length)
            return f"{count}{unit}" + (f"{rest // smaller}{below}" if rest >= smaller else "")
    return f"{left}s"


def paragraph(message: str) -> str:
    """A message of one or several lines, indented but for the first: none passes for a new message."""
    first, *others = (printable(line.rstrip()) for line in message.strip().split("\n"))
    return "\n".join([first, *(line if line.startswith("    ") else f"    {line}" for line in others)])


def error_line(code: str, message: str) -> str:
    """`error (CODE): MESSAGE`."""
    return f"error ({printable(code)}): {paragraph(message)}" if code else f"error: {paragraph(message)}"


#: What lines of an error that say how to go on begin with.
HELPING = ("  hint: ", "  usage: ")


def error_text(program: str, command: str, error: CommandError, usage: str = "") -> str:
    """An error in imgadm's form; other errors of the same request, usage and hint in lines of their own."""
    lines = [f"{program} {printable(command)}: " if command else f"{program}: "]
    lines[0] += error_line(error.code, error.message)
    printed = {error.message}
    for other in _others(error):
        message = str(other.get("message"))
        if message not in printed:
            printed.add(message)
            lines.append(f"    {error_line(str(other.get('code')), message)}")
    if usage:
        lines.append(f"  usage: {usage}")
    if error.hint:
        lines.append(f"  hint: {printable(error.hint)}")
    return "\n".join(lines)


def _others(error: CommandError) -> list[dict[str, object]]:
    others = error.data.get("others")
    return [other for other in others if isinstance(other, dict)] if isinstance(others, list) else []


def safe_json(text: str) -> str:
    r"""JSON text in which what cannot be printed is written `\u001b`; it can only be inside of strings."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
