"""Lines about imports, their plans, and the creation and publication of images. Pure: no I/O.

The words are imgadm's where it has the same line. The events and their fields are those of docs/protocol.md.
An event that is not known has no line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgctl.text import paragraph, printable, size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgproto.documents import PlanDocument, PlannedDocument

    Event = Mapping[str, Any]


def line(event: Event) -> str | None:
    """The event's line on standard output; None where there is none."""
    make = _LINES.get(str(event.get("event")))
    return None if make is None else make(event)


def abort(message: str) -> str:
    """The line that imgadm prints before the error when an import ends early."""
    return f"Aborting ({paragraph(message)})"


#: Columns of a terminal that have room for a date, and for columns at all; digits of a short uuid.
_WITH_DATE, _DIGITS = 72, 8


def numbered_line(event: Event, columns: int | None = None) -> str:
    """A numbered event for people: its number, time, name, and what it is about.

    On a terminal, of so many columns, uuids are short. On a narrow one times are, too, and names do alone.
    """
    at = str(event.get("at"))
    moment = f"{at[:19]}Z" if len(at) > 19 else at
    if columns is not None and columns < _WITH_DATE:
        clock = printable(moment[11:19] or moment)
        return f"{_text(event, 'number')} {clock} {_text(event, 'event')} {_about(event, digits=0)}".rstrip()
    head = f"{_text(event, 'number'):>6}  {printable(moment)}  {_text(event, 'event'):<18}"
    return f"{head}{_about(event, digits=None if columns is None else _DIGITS)}".rstrip()


def _about(event: Event, *, digits: int | None) -> str:
    words = [_who(event, digits)]
    if event.get("tag") and event.get("event") in ("held", "released"):
        words.append(f"tag {_text(event, 'tag')}")
    if (count := _size(event, "bytes")) is not None:
        words.append(count)
    if event.get("event") in ("mirrored", "mirror-failed"):
        words.append(f"{_text(event, 'new')} new, {_text(event, 'failed')} failed")
    if event.get("message"):
        words[-1] += f": {printable(event['message'])}"
    if event.get("uuid") and event.get("source"):
        words.append(f"from {_text(event, 'source')}")
    if event.get("client"):
        words.append(f"by {_text(event, 'client')}")
    return " ".join(words)


def _who(event: Event, digits: int | None) -> str:
    if event.get("uuid"):
        name = "@".join(printable(event[key]) for key in ("name", "version") if event.get(key))
        uuid = _text(event, "uuid")[: digits if name or digits != 0 else _DIGITS]
        place = f" in {_text(event, 'pool')}" if event.get("pool") else ""
        return f"{name} {uuid}".strip() + place
    if event.get("pid"):
        return f"imgstored {_text(event, 'version')}, pid {_text(event, 'pid')}"
    if event.get("lost"):
        return f"{_text(event, 'lost')} events could not be written down"
    return _text(event, "source")


def kept(progress: Event | None) -> str:
    """A line about what is kept of the images of a request that ends early."""
    known = [image for image in (progress or {}).get("images") or () if image.get("phase") != "installed"]
    if not known or any("kept" not in image for image in known):
        return "what was downloaded is kept"
    count = sum(image["kept"] for image in known)
    there = max(count, sum(image.get("done") or 0 for image in known))
    if there == 0:
        return "nothing was downloaded yet"
    # Of a range of the file that is not complete nobody could tell later whether it is what was sent.
    of = "" if count == there else f" of {size(there)}, as complete ranges"
    return f"{size(count)} kept{of}"


def bar_label(progress: Event) -> str:
    """The label of the progress bar at this `progress` event."""
    images: Sequence[Mapping[str, Any]] = progress.get("images") or []
    if images and all(image.get("phase") == "verifying" for image in images):
        return "Verifying"
    total = progress.get("total")
    complete = isinstance(total, int) and progress.get("done", 0) >= total
    if complete or not any(image.get("phase") in ("waiting", "downloading") for image in images):
        return "Installing"
    return f"Download {_images(len(images))}"


def _images(count: Any) -> str:
    return f"{printable(count)} image{'' if count == 1 else 's'}"


def _text(event: Event, field: str) -> str:
    value = event.get(field)
    return "-" if value is None else printable(value)


def _size(event: Event, field: str) -> str | None:
    value = event.get(field)
    return size(value) if isinstance(value, int) else None


def _image(event: Event) -> str:
    return f"{_text(event, 'uuid')} ({_text(event, 'name')}@{_text(event, 'version')})"


def _already(event: Event) -> str:
    uuid, name, version = (_text(event, field) for field in ("uuid", "name", "version"))
    return f"Image {uuid} ({name} {version}) is already installed, skipping"


def _importing(event: Event) -> str:
    channel = f', channel "{_text(event, "channel")}"' if event.get("channel") else ""
    return f'Importing {_image(event)} from "{_text(event, "source")}"{channel}'


def _planned(event: Event) -> str:
    total = _size(event, "size")
    known = "" if total is None else f" ({total})"
    return f"Must download and install {_images(event.get('images'))}{known}"


def _resumed(event: Event) -> str:
    there, total = _size(event, "size"), _size(event, "total")
    of = "" if total is None else f" of {total}"
    return f"Resuming image {_text(event, 'uuid')}: {there}{of} are there already"


def _downloaded(event: Event) -> str:
    return f"Downloaded image {_text(event, 'uuid')} ({_size(event, 'size')})"


def _installed(event: Event) -> str:
    return f"{'Installed' if event.get('from_file') else 'Imported'} image {_image(event)}"


def _meanwhile(event: Event) -> str:
    done = "installed" if event.get("from_file") else "imported"
    return f"Image {_image(event)} was {done} while waiting on lock"


def _not_found(event: Event) -> str:
    return f"warning: Could not find image {_text(event, 'uuid')} in image sources (skipping)"


def _updated(event: Event) -> str:
    uuid, source, fields = _text(event, "uuid"), _text(event, "source"), event.get("fields")
    if not isinstance(fields, list | tuple):
        return f'Added manifest info for image {uuid} from "{source}"'
    what = f"{len(fields)} manifest field{'' if len(fields) == 1 else 's'}"
    return f'Updated {what} for image {uuid} from "{source}": {", ".join(map(printable, fields))}'


def _renamed(event: Event) -> str:
    dataset = f"{_text(event, 'pool')}/{_text(event, 'uuid')}"
    before = f"{dataset}@{_text(event, 'before')}"
    return f"Renamed image {_text(event, 'uuid')} original snapshot from {before} to {dataset}@final"


def _verified(event: Event) -> str:
    reason = f": {_text(event, 'reason')}" if event.get("reason") else ""
    signed = ""
    if event.get("signed_by"):
        doubt = "" if event.get("trusted") else ", a key that no source trusts any more"
        signed = f" (signed by {_text(event, 'signed_by')}{doubt})"
    return f"Image {_image(event)} in {_text(event, 'pool')} is {_text(event, 'result')}{reason}{signed}"


_LINES: dict[str, Callable[[Event], str]] = {
    "already-installed": _already,
    "importing": _importing,
    "installing": lambda event: f"Installing image {_image(event)}",
    "ancestry": lambda event: f"Gather image {_text(event, 'uuid')} ancestry",
    "ancestor-installed": lambda event: f"Image {_text(event, 'uuid')} already installed",
    "plan": _planned,
    "resumed": _resumed,
    "downloaded": _downloaded,
    "waiting-for-lock": lambda event: f"Waiting for image {_text(event, 'uuid')} import lock",
    "installed-meanwhile": _meanwhile,
    "installed": _installed,
    "verified": _verified,
    "not-in-sources": _not_found,
    "manifest-updated": _updated,
    "snapshot-renamed": _renamed,
    "left": lambda event: f"Left image {_text(event, 'uuid')}: {_text(event, 'reason')}",
}

_MAKING = {
    "vm-stopping": "Stopping VM {} to snapshot it",
    "vm-snapshotting": 'Snapshotting VM "{}" to @imgadm-create-pre-prepare',
    "vm-starting": "Preparing VM {} (starting it)",
    "prepare-running": "Prepare script is running",
    "prepare-succeeded": "Prepare script succeeded",
    "prepare-timeout": "Timeout waiting for prepare-image script to signal it started",
    "prepare-stopped": "Prepare script stopped VM {}",
    "final-moved": 'Moving existing @final snapshot out of the way to "{}"',
    "snapshotting": 'Snapshotting to "{}"',
    "vm-rolling-back": "Rollback VM {} to pre-prepare snapshot (cleanup)",
    "vm-restarting": "Restarting VM {} (cleanup)",
}


def making_line(event: Event, file: str) -> str | None:
    """The line of an event about a new image; None where there is none. `file` is the image's file."""
    text = {field: printable(value) for field, value in event.items()}
    match event.get("event"):
        case "inheriting":
            return f"Inheriting from origin image {text['uuid']} ({text['name']} {text['version']})"
        case "making":
            sentence = _MAKING.get(text["step"])
            return None if sentence is None else sentence.format(text["what"])
        case "publishing" if event.get("step") == "imported":
            of = f"{text['name']}, {text['version']}, state={text['state']}"
            return f"Imported image {text['uuid']} ({of})"
        case "publishing" if event.get("step") == "file":
            compression = text["compression"]
            return f'Added file "{printable(file)}" (compression "{compression}") to image {text["uuid"]}'
        case "publishing" if event.get("step") == "activated":
            return f"Activated image {text['uuid']}"
        case _:
            return None


def plan_lines(plan: PlanDocument) -> list[str]:
    """A line for each image, then how much is to come, and how much room there is."""
    pool, count, room = printable(plan["pool"]), plan["count"], plan["room"]
    lines = [_step_line(image, pool) for image in plan["images"]]
    if not count:
        under_way = any(image["state"] == "under-way" for image in plan["images"])
        return [*lines, "Nothing else to download" if under_way else "Nothing to download"]
    known = "" if plan["size"] is None else f" ({size(plan['size'])})"
    lines.append(f"Would download and install {count} image{'' if count == 1 else 's'}{known}")
    if plan["size"] is not None and plan["to_come"] < plan["size"]:
        lines.append(f"Of that {size(plan['size'] - plan['to_come'])} are there from an earlier try")
    lines.append(f"Free: {size(room['pool'])} in pool {pool}, {size(room['spool'])} for downloads")
    return lines


def _step_line(image: PlannedDocument, pool: str) -> str:
    called = f"{printable(image['uuid'])} ({printable(image['name'])}@{printable(image['version'])})"
    if image["state"] == "installed":
        return f"Image {called} is already installed in pool {pool}"
    if image["state"] == "under-way":
        return f"Image {called} is being imported into pool {pool} already: `imgctl watch` follows it"
    count = image["size"]
    known = "size not known" if count is None else size(count)
    line = f'Would import {called} from "{printable(image["source"])}": {known}'
    delta = image.get("delta")
    if delta is None:
        return line
    basis = f"{printable(delta['uuid'])} ({printable(delta['name'])}@{printable(delta['version'])})"
    return f"{line}, of it only what image {basis} lacks"
