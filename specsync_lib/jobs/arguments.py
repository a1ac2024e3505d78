"""The jobs' command lines, checked before anything is installed: standard library alone.

``python -m specsync_lib.jobs.arguments JOB ...`` says nothing where the line is good.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from specsync_lib import rows, streams
from specsync_lib.errors import InputError
from specsync_lib.values import did_you_mean, on_one_line, shown


class _OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{on_one_line(message)}; --help shows what it takes")


def _doctor() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="./run_all.sh doctor",
        description="Say whether a row can run: what is there, what is missing, and what one chunk costs.",
        allow_abbrev=False,
    )
    parser.add_argument("--dry-chunk", choices=("yes", "no"), default="yes", help="whether to load all and run a chunk")
    return parser


JOBS = {"doctor": _doctor}


def parse(job: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, rows.Row]:
    """A job's options and its row; what the row names need not be there (the doctor says what is not).

    Raises
    ------
    InputError : one line.
    """
    if job not in JOBS:
        raise InputError(f"job {shown(job)} is unknown; {did_you_mean(job, JOBS)}known: {', '.join(JOBS)}")
    parser = JOBS[job]()
    parser.add_argument("--row", default=rows.DEFAULT, help="a name in data/rows, or a TOML file")
    parser.add_argument("-p", dest="single", metavar="part.key=value", action="append", default=[],
                        help="a single value of the row")  # fmt: skip
    if "--" in arguments:
        raise InputError("'--' alone is not taken; --help shows what it takes")
    options = parser.parse_args(list(arguments))
    single: dict[str, str] = {}
    for assignment in options.single:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"{shown(assignment)}: write it as part.key=value, for example -p judge.kind=sglang")
        if name in single:
            raise InputError(f"{shown(name)}: given twice; give it once")
        single[name] = text
    return options, rows.read(options.row, single, present=False)


def main(arguments: Sequence[str]) -> int:
    """Check a job's command line and say nothing when it is good."""
    try:
        parse(arguments[0] if arguments else "", arguments[1:])
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    streams.settle()
    sys.exit(main(sys.argv[1:]))
