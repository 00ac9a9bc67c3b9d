"""The measured figures: docs/figures.json is where they are, tables and plots show them. Pure: no I/O.

The file has, by the name of a bench, the rows of the table that it prints: lists of cells.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from docs.make.plot import Bar, bars, curves

#: The time that the plot of a fleet shows.
_FLEET_SECONDS = 400.0

#: The heading of a bench's table.
_HEADS = {
    "bench": ("case", "ours: median (min–max)", "peer: median (min–max)", "ratio", "goal", ""),
    "bench-zfs": ("case", "ours: median (min–max)", "imgadm's way: median (min–max)", "ratio", "goal", ""),
    "bench-scripts": ("case", "ours: median (min–max)", "peer: median (min–max)", "ratio", "goal", ""),
    "deltas": ("stream", "file", "index", "nginx sent", "of the file", "goal"),
}
_TITLES = {
    "bench": "Importing a stream of 600 MB, embedded pool: seconds",
    "bench-zfs": "Importing a stream of 105 MB, ZFS pool in an emulated guest: seconds",
    "bench-scripts": "A stream of 600 MB against fast scripts, on a busy machine: seconds",
    "deltas": "Upgraded /usr, 13 % of its files changed: percent of the file that is fetched",
}

Rows = dict[str, list[list[str]]]


class _Time(NamedTuple):
    median: float
    least: float
    most: float
    who: str


def read(text: str) -> Rows:
    """The rows by bench. Raises `ValueError` for a file that is not so."""
    rows: Rows = json.loads(text)
    for bench, table in rows.items():
        for row in table:
            if bench not in _HEADS or len(row) != len(_HEADS[bench]):
                raise ValueError(f"{bench}: a row has {len(_HEADS[bench])} cells: {row}")
    return rows


def written(rows: Rows) -> str:
    """The file's text."""
    tables = [
        f"  {json.dumps(bench)}: [\n"
        + ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in table)
        + "\n  ]"
        for bench, table in rows.items()
    ]
    return "{\n" + ",\n".join(tables) + "\n}\n"


def merged(rows: Rows, bench: str, printed: str) -> Rows:
    """The rows with those of a table that the bench has printed, in place of the same case and peer."""
    new = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
        for line in printed.splitlines()
        if line.startswith("| ") and not line.startswith(("| case |", "| --- |"))
    ]
    table = list(rows.get(bench, []))
    for row in new:
        known = [_subject(each) for each in table]
        if _subject(row) in known:
            table[known.index(_subject(row))] = row
        else:
            table.append(row)
    return {**rows, bench: table}


def table(rows: Rows, bench: str) -> str:
    """All rows of a bench, in Markdown."""
    lines = [_HEADS[bench], ["---"] * len(_HEADS[bench]), *rows[bench]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: Rows) -> str:
    """The README's rows: the first of each case that meets a goal, and how many others do not.

    Each is against imgadm's way if there is one.
    """
    first = {row[0]: row for row in reversed(rows["bench"])}
    lines = ["| what | ours | measured against | goal |", "| --- | --- | --- | --- |"]
    missed: list[str] = []
    # What is measured in several ways is named before a bracket, and shown once.
    shown = {row[0].partition(" (")[0]: row[0] for row in reversed(rows["bench"])}
    for case in dict.fromkeys(row[0] for row in rows["bench"]):
        if shown[case.partition(" (")[0]] != case:
            continue
        _, ours, peer, ratio, goal, verdict = first[case]
        if not goal:
            continue
        if verdict != "ok":
            missed.append(case)
            continue
        theirs = re.sub(r" \([^)]*\)", "", peer)
        against = f"{theirs}: {ratio}" if peer else ""
        lines.append(f"| {case} | {re.sub(r' [(][^)]*[)]', '', ours)} | {against} | {goal} {verdict} |")
    if missed:
        goals = "1 goal is" if len(missed) == 1 else f"{len(missed)} goals are"
        lines.append(f"| {goals} **missed**: {', '.join(missed)} | | | |")
    return "\n".join(lines)


def page(text: str, rows: Rows) -> str:
    """A page with its tables as the file has them: those below `<!-- figures: BENCH -->`."""

    def made(found: re.Match[str]) -> str:
        name = found[1]
        return (
            f"<!-- figures: {name} -->\n\n"
            + (summary(rows) if name == "summary" else table(rows, name))
            + "\n"
        )

    return re.sub(r"<!-- figures: ([\w-]+) -->\n\n(?:\|.*\n)*", made, text)


def fleet(printed: str) -> str:
    """When the hosts of each plan of `python -m bench.fleet` were done, as SVG."""
    lines = {name: plan["curve"] for name, plan in json.loads(printed).items()}
    return curves("Hosts of 10,000 that have the image", "seconds", lines, _FLEET_SECONDS)


def plot(rows: Rows, bench: str) -> str:
    """Seconds of every case that was measured in seconds, as SVG; of the deltas, what was fetched."""
    if bench == "deltas":
        return bars(_TITLES[bench], _parts(rows[bench]))
    groups: dict[str, list[Bar]] = {}
    for case, ours, peer, *_ in rows[bench]:
        mine, theirs = _time(ours), _time(peer)
        if mine is None or theirs is None or mine.most < 1:
            continue
        group = groups.setdefault(case, [Bar("imgstore", mine.median, mine.least, mine.most, ours=True)])
        group.append(Bar(theirs.who or "imgadm's way", theirs.median, theirs.least, theirs.most, ours=False))
    return bars(_TITLES[bench], groups)


def _parts(rows: list[list[str]]) -> dict[str, list[Bar]]:
    """Percents of the whole file, by stream."""
    groups = {}
    for stream, *_, part, _ in rows:
        percent = float(part.removesuffix(" %"))
        groups[stream] = [
            Bar("with the index", percent, percent, percent, ours=True),
            Bar("the whole file", 100.0, 100.0, 100.0, ours=False),
        ]
    return groups


def _subject(row: list[str]) -> tuple[str, str]:
    """A row's case, and its peer."""
    return row[0], re.sub(r"[\d.]+ (?:µs|ms|s)(?: \([^)]*\))?", "", row[2]).strip()


def _time(cell: str) -> _Time | None:
    found = re.fullmatch(r"([\d.]+) (ms|s)(?: \(([\d.]+)–([\d.]+)\))?(?: (.*))?", cell)
    if found is None:
        return None
    scale = 0.001 if found[2] == "ms" else 1.0
    median, least, most = (float(each or found[1]) * scale for each in (found[1], found[3], found[4]))
    return _Time(median, least, most, (found[5] or "").strip("`").replace("\\|", "|"))
