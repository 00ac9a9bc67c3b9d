"""`import --dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.errors import remote_error
from imgctl.plan_text import plan_lines
from imgctl.text import error_line

if TYPE_CHECKING:
    from imgproto.documents import PlanDocument

    from imgctl.session import Session


def show_plan(session: Session, plan: PlanDocument, *, as_json: bool) -> None:
    """Prints the plan. Raises what would refuse the import; of several, all but the first are said before."""
    if as_json:
        session.say_json(plan)
    else:
        session.say(plan_lines(plan))
    refusals = [remote_error(error) for error in plan["refusals"]]
    for error in refusals[1:]:
        session.warn(error_line(error.code, error.message))
    if refusals:
        raise refusals[0]
