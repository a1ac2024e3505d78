"""The strict check of everything a person may set, before anything runs.

papermill only warns about an unknown parameter; here an unknown name, a wrong type, NaN, a value out of range, an empty
or a repeated one is one line and exit code 2. This module needs the standard library alone, so that the door can refuse
bad arguments before the environment exists.
"""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from specsync_lib.errors import InputError

DECIMAL_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
INTEGER_PATTERN = re.compile(r"[+-]?[0-9]{1,18}")
SHOWN_CHARACTERS = 60

Value = str | int | float


@dataclass(frozen=True)
class Range:
    """A closed interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Parameter:
    """One notebook parameter: the same name means the same thing in every notebook that declares it.

    ``allowed`` is a tuple of choices, a Range, or for free text the words that describe it. ``profiles`` holds the
    values that a profile puts in place of the default.
    """

    name: str
    type: type[str] | type[int] | type[float]
    default: Value
    allowed: tuple[str, ...] | Range | str
    help: str
    profiles: Mapping[str, Value] = field(default_factory=dict)

    def allowed_text(self) -> str:
        """The allowed values in words."""
        match self.allowed:
            case Range(low, high):
                return f"{'a whole' if self.type is int else 'a'} number from {low} to {high}"
            case str(words):
                return words
            case choices:
                return f"one of {', '.join(choices)}"

    def parse(self, text: str) -> Value:
        """The typed value of what was written after ``name=``.

        Raises
        ------
        InputError: one line with the parameter, what was given and what is allowed.
        """
        value = self._typed(text)
        if value is None or not self._allows(value):
            raise InputError(f"parameter {self.name}: got {shown(text)}; allowed: {self.allowed_text()}")
        return value

    def _typed(self, text: str) -> Value | None:
        """The text as this parameter's type, None where it is not one."""
        if self.type is str:
            return text if text.strip() and text.isprintable() else None
        pattern = INTEGER_PATTERN if self.type is int else DECIMAL_PATTERN
        return self.type(text) + 0 if pattern.fullmatch(text) else None

    def _allows(self, value: Value) -> bool:
        if isinstance(self.allowed, str):
            return True
        return value in self.allowed and (isinstance(value, str) or math.isfinite(value))


def shown(text: str) -> str:
    """What was given, quoted, on one line and not longer than a line."""
    quoted = repr(text)
    return quoted if len(quoted) <= SHOWN_CHARACTERS else f"{quoted[: SHOWN_CHARACTERS - 4]}...'"


PROFILES = ("smoke", "default", "full")

PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            "audio",
            str,
            "",
            "the path of a sound or video file on this machine",
            "the recording to lip-sync; without it a human recording from the held-out corpus is taken",
        ),
        Parameter(
            "transcript",
            str,
            "",
            "the recording's words, on one line",
            "the recording's words; without it the corpus' own text or Whisper's words are taken",
        ),
        Parameter("threshold", float, 0.85, Range(0, 1), "confidence at or above which a drafted frame is kept"),
        Parameter("seed", int, 0, Range(0, 2**32 - 1), "start of every random generator"),
        Parameter("profile", str, "default", PROFILES, "how much is computed: smoke is a check, full is for papers"),
        Parameter("max_seconds", float, 3600.0, Range(0.1, 3600), "longest recording accepted, in seconds"),
        Parameter("track", int, 0, Range(0, 999), "the file's sound track, from 1; 0 takes the best that decodes"),
    )
}


@dataclass(frozen=True)
class Options:
    """What a run was asked for: every parameter's value, and whether finished notebooks count."""

    values: dict[str, Value]
    given: frozenset[str]
    fresh: bool = False
    benchmark: bool = False


def check(assignments: Sequence[str], profile: str | None = None) -> tuple[dict[str, Value], frozenset[str]]:
    """Every parameter's value for a list of ``name=value``, and the names that were given.

    Raises
    ------
    InputError: unknown or repeated name, wrong type, not finite, out of range, empty.
    """
    texts: dict[str, str] = {} if profile is None else {"profile": profile}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"parameter {shown(assignment)}: write it as name=value, for example -p threshold=0.9")
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name, PARAMETERS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"parameter {shown(name)} is unknown; {hint}known: {', '.join(PARAMETERS)}")
        if name in texts:
            raise InputError(f"parameter {name}: given twice, {shown(texts[name])} and {shown(text)}; give it once")
        texts[name] = text
    given = {name: PARAMETERS[name].parse(text) for name, text in texts.items()}
    chosen = given.get("profile", PARAMETERS["profile"].default)
    defaults = {name: parameter.profiles.get(chosen, parameter.default) for name, parameter in PARAMETERS.items()}
    return defaults | given, frozenset(given)


class _OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; ./run_all.sh --help shows what it takes")


def _help_epilog() -> str:
    lines = ["parameters (-p name=value):"]
    for parameter in PARAMETERS.values():
        lines.append(f"  {parameter.name:12} {parameter.help}")
        default = f"; default {parameter.default}" if parameter.default != "" else ""
        lines.append(f"  {'':12} {parameter.allowed_text()}{default}")
        lines += [f"  {'':12} --profile {name}: {value}" for name, value in parameter.profiles.items()]
    lines += [
        "",
        "other modes:",
        "  ./run_all.sh test [pytest arguments]   the same set-up, then the whole test suite",
        "  ./run_all.sh lab                       JupyterLab on the notebooks",
        "",
        "environment:",
        "  SPECSYNC_TORCH_INDEX   package index to install torch from (for example a CPU-only one)",
        "  SPECSYNC_PYTHON        the Python 3.11 to 3.13 that makes .venv",
        "  SPECSYNC_CACHE         folder for model weights and speech",
    ]
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str]) -> Options:
    """Check a command line of the main mode.

    Raises
    ------
    InputError: anything that the run would not take.
    """
    parser = _OneLineParser(
        prog="./run_all.sh",
        description="Turn a recording of speech into a lip-synced 720p30 video and the whole report.",
        epilog=_help_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-p", dest="assignments", metavar="name=value", action="append", default=[])
    parser.add_argument("--profile", action="append", default=[], help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--fresh", action="store_true", help="run every notebook again, finished or not")
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="--fresh, and keep wall time and peak memory in data/measurements/cpu_report.json",
    )
    options = parser.parse_args(list(arguments))
    assignments = [*options.assignments, *(f"profile={name}" for name in options.profile)]
    values, given = check(assignments)
    return Options(values, given, fresh=options.fresh or options.benchmark, benchmark=options.benchmark)


def main(arguments: Sequence[str]) -> int:
    """Check a command line and say nothing when it is good."""
    try:
        parse_arguments(arguments)
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
