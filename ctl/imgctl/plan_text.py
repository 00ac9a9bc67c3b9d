"""The output of `import --dry-run`. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.text import printable, size

if TYPE_CHECKING:
    from imgproto.documents import PlanDocument, PlannedDocument


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
