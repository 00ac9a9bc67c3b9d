"""A command's options and arguments, as imgadm takes them: they may be mixed. Pure: no I/O."""

from __future__ import annotations

from imgctl.errors import CommandError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import getopt
    from collections.abc import Sequence


#: A number of which nobody needs more.
MOST = 999_999_999


class Option:
    """One option: its flags ("-P", "--pool"), its argument's name (empty: it has none), its help."""

    __slots__ = ("argument", "flags", "help", "imgadms")

    def __init__(
        self,
        flags: tuple[str, ...],
        argument: str,
        help: str,  # noqa: A002  (as argparse)
        *,
        imgadms: bool = True,
    ) -> None:
        """`imgadms` False: under imgadm's name the option is unknown, as it is to imgadm."""
        self.flags = flags
        self.argument = argument
        self.help = help
        self.imgadms = imgadms


class Arguments:
    """The parsed arguments. Any flag of an option finds it; the last one of several counts."""

    def __init__(self, options: Sequence[Option], given: Sequence[tuple[str, str]], rest: list[str]) -> None:
        self._options = options
        self._given = given
        self.rest = rest

    def flag(self, flag: str) -> bool:
        """True if the option was given."""
        return bool(self._values(flag))

    def text(self, flag: str) -> str | None:
        """The option's argument."""
        values = self._values(flag)
        return values[-1] if values else None

    def texts(self, flag: str) -> list[str]:
        """The arguments of an option that may be given several times."""
        return self._values(flag)

    def number(self, flag: str, what: str, least: int, most: int = MOST, *, imgadms: str = "") -> int | None:
        """The option's argument, a whole number, or None; `what` names it. Raises `UsageError`.

        `imgadms` is imgadm's end of the sentence, where it has the same option.
        """
        text = self.text(flag)
        if text is None:
            return None
        if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
            return int(text)
        if imgadms:
            raise UsageError(f'invalid {what} "{text}": {imgadms}')
        raise UsageError(
            f'invalid {what}: "{text}"',
            hint=f"it may be {least} " + ("or more" if most >= MOST else f"to {most}"),
        )

    def seconds(self, flag: str, least: float, most: float) -> float | None:
        """The option's argument, a number of seconds, or None. Raises `UsageError`."""
        text = self.text(flag)
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not least <= seconds <= most:
            raise UsageError(
                f'invalid number of seconds: "{text}"', hint=f"it may be {least:.10g} to {most:.10g}"
            )
        return seconds

    def one(self) -> str:
        """The only argument. Raises `UsageError` for none or several."""
        if len(self.rest) != 1:
            raise self.wrong_count()
        return self.rest[0]

    def some(self, least: int = 1) -> list[str]:
        """The arguments. Raises `UsageError` for fewer than `least`."""
        if len(self.rest) < least:
            raise self.wrong_count(least)
        return self.rest

    def wrong_count(self, least: int = 1) -> UsageError:
        """The error of a command that takes at least so many arguments, and got fewer or too many."""
        given = " ".join(self.rest)
        after = f' after "{given}"' if given else ""
        return UsageError(
            f"an argument is missing{after}" if len(self.rest) < least else f'too many arguments: "{given}"',
            imgadms=f'incorrect number of args ({len(self.rest)}): "{given}"',
        )

    def none(self) -> None:
        """Raises `UsageError` if there are arguments."""
        if self.rest:
            raise UsageError(f"unexpected args: {' '.join(self.rest)}")

    def _values(self, flag: str) -> list[str]:
        flags = next((option.flags for option in self._options if flag in option.flags), ())
        return [value for given, value in self._given if given in flags]


def parse(options: Sequence[Option], arguments: Sequence[str], *, mixed: bool = True) -> Arguments:
    """Takes options apart from arguments; unless `mixed`, the first argument ends the options.

    Raises `CommandError` (Option) for an unknown option, or one that lacks its argument.
    """
    if not any(argument.startswith("-") for argument in arguments):
        return Arguments(options, [], [*arguments])  # nothing to take apart: spares the import of getopt
    import getopt

    short = "".join(
        flag[1] + (":" if option.argument else "")
        for option in options
        for flag in option.flags
        if not flag.startswith("--")
    )
    long = [
        flag[2:] + ("=" if option.argument else "")
        for option in options
        for flag in option.flags
        if flag.startswith("--")
    ]
    take = getopt.gnu_getopt if mixed else getopt.getopt
    try:
        given, rest = take(list(arguments), short, long)
    except getopt.GetoptError as error:
        raise _refused(options, error) from error
    return Arguments(options, given, rest)


def _refused(options: Sequence[Option], error: getopt.GetoptError) -> CommandError:
    flag = f"--{error.opt}" if len(error.opt) > 1 else f"-{error.opt}"
    known = next((option for option in options if flag in option.flags), None)
    if known is None:
        from imgctl import advice

        # The dashes, which all have, would make any two of them alike.
        names = [flag[2:] for option in options for flag in option.flags if flag.startswith("--")]
        hint = advice.did_you_mean(error.opt, names, before="--")
        return CommandError("Option", f'unknown option: "{flag}"', hint)
    if known.argument:
        return CommandError("Option", f'do not have enough args for "{flag}" option')
    return CommandError("Option", f'the option "{flag}" has no argument')
