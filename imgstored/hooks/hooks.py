"""The hooks of the configuration: each gets the events that it is for, in order, one at a time.

    event log ──► a queue for each hook ──► the program, with the event as JSON on its standard input

Nothing waits for a hook: what its queue has no room for is dropped, and counted. What waits when the daemon
ends is not run; a program that must see everything follows `imgctl events`.
"""

from __future__ import annotations

import json
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from msgspec import Struct

from imgstored.errors import ConfigError
from imgstored.events.stream import HookEnded
from imgstored.hooks import program
from imgstored.host import shortage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgproto.events import NumberedEvent

log = structlog.get_logger(__name__)

#: Programs that run at the same time, and events that wait for one hook.
AT_A_TIME: Final = 4
MAX_WAITING: Final = 1000

#: Seconds that hooks get to come to an end when the daemon stops.
_LAST: Final = 1.0


class HookSpec(Struct, frozen=True):
    """A program and its arguments, and the events that it is run for: all of them without `names`."""

    command: tuple[str, ...]
    names: frozenset[str] = frozenset()
    seconds: float = 60.0

    def wants(self, name: str) -> bool:
        """True if the hook is for events of that name."""
        return not self.names or name in self.names


class _Hook:
    """One hook, while there is one."""

    def __init__(self, spec: HookSpec) -> None:
        self.spec = spec
        self.waiting: deque[NumberedEvent] = deque()
        self.some = trio.Event()
        self.idle = trio.Event()
        self.idle.set()
        self.scope = trio.CancelScope()


class Hooks:
    """Runs the hooks' programs while `run` is running. For trio's thread."""

    def __init__(
        self,
        specs: Sequence[HookSpec],
        publish: Callable[[HookEnded], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`publish` hears how each run ended; `environment` is for all programs."""
        self._publish = publish
        self._environment = dict(environment or {})
        self._hooks = [_Hook(spec) for spec in specs]
        self._threads = trio.CapacityLimiter(AT_A_TIME)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until it is cancelled, which ends all programs."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for hook in self._hooks:
                nursery.start_soon(self._serve, hook)
            task_status.started()
            await trio.sleep_forever()

    def reconfigure(self, specs: Sequence[HookSpec]) -> None:
        """Takes other hooks. One that stays goes on; one that is gone ends, with what waits for it."""
        left = [*self._hooks]
        kept = []
        for spec in specs:
            same = next((hook for hook in left if hook.spec == spec), None)
            if same is not None:
                left.remove(same)
            hook = _Hook(spec) if same is None else same
            if same is None and self._nursery is not None:
                self._nursery.start_soon(self._serve, hook)
            kept.append(hook)
        self._hooks = kept
        for hook in left:
            hook.scope.cancel()

    def hear(self, event: NumberedEvent) -> None:
        """Hears of an event; returns at once."""
        for hook in self._hooks:
            if not hook.spec.wants(event["event"]):
                continue
            if len(hook.waiting) >= MAX_WAITING:
                log.warning("an event was dropped: too many wait for a hook", hook=hook.spec.command[0])
                self._publish(HookEnded(hook.spec.command[0], "dropped"))
                continue
            hook.waiting.append(event)
            hook.idle = trio.Event() if hook.idle.is_set() else hook.idle
            hook.some.set()

    async def stop(self) -> None:
        """Waits for what is under way, for a moment."""
        with trio.move_on_after(_LAST):
            for hook in self._hooks:
                await hook.idle.wait()

    # -- one hook --------------------------------------------------------------------------------------------

    async def _serve(self, hook: _Hook) -> None:
        with hook.scope:
            try:
                await trio.to_thread.run_sync(
                    program.check_program, hook.spec.command[0], limiter=self._threads
                )
            except ConfigError as error:
                log.error("a hook cannot be run", error=error.message, hint=error.hint)
            while True:
                await hook.some.wait()
                hook.some = trio.Event()
                while hook.waiting:
                    await self._run(hook.spec, hook.waiting.popleft())
                hook.idle.set()

    async def _run(self, spec: HookSpec, event: NumberedEvent) -> None:
        name = spec.command[0]
        try:
            done = await trio.to_thread.run_sync(partial(self._blocking, spec, event), limiter=self._threads)
        except (ConfigError, OSError) as error:
            why = error.message if isinstance(error, ConfigError) else shortage.why(error)
            self._failed(spec, event, "refused", error=why)
            return
        except Exception:
            # A hook must not take the daemon with it.
            log.exception("a hook could not be run", hook=name)
            self._publish(HookEnded(name, "failed"))
            return
        if done.status is None:
            self._failed(spec, event, "timeout", seconds=spec.seconds, said=done.words)
        elif done.status:
            self._failed(spec, event, "failed", status=done.status, said=done.words)
        else:
            self._publish(HookEnded(name, "ok"))

    def _blocking(self, spec: HookSpec, event: NumberedEvent) -> program.Run:
        """Raises `ConfigError`, `OSError`."""
        program.check_program(spec.command[0])
        about = {"IMGSTORED_EVENT": event["event"], "IMGSTORED_EVENT_NUMBER": str(event["number"])}
        return program.run(
            spec.command,
            json.dumps(event).encode() + b"\n",
            {**self._environment, **about},
            spec.seconds,
            trio.from_thread.check_cancelled,
        )

    def _failed(self, spec: HookSpec, event: NumberedEvent, outcome: Any, **facts: Any) -> None:
        log.warning(
            "a hook failed",
            hook=spec.command[0],
            on=event["event"],
            number=event["number"],
            outcome=outcome,
            **facts,
        )
        self._publish(HookEnded(spec.command[0], outcome))
