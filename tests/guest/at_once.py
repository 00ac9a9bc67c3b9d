"""A pytest plugin: shows failures and figures as they come, because a guest may not come to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Is called after each test's set-up, call and tear-down."""
    if report.failed:
        print(f"\n{report.longreprtext}")
    if report.when == "teardown":
        for name, value in report.user_properties:
            print(f"\n    {name}: {value}")
