"""The jobs' command lines, checked before anything is installed: standard library alone.

``python -m specsync_lib.jobs.arguments JOB ...`` says nothing where the line is good.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from specsync_lib import rows, streams
from specsync_lib.errors import InputError
from specsync_lib.speech.manifest import Utterance, read_manifest
from specsync_lib.values import did_you_mean, on_one_line, shown


class _OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{on_one_line(message)}; --help shows what it takes")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say whether a row can run: what is there, what is missing, and what one chunk costs."
    parser.add_argument("--dry-chunk", choices=("yes", "no"), default="yes", help="whether to load all and run a chunk")


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = "Judge every recording of a corpus with a row, without video. Run it again to go on."
    parser.add_argument("--corpus", help="a corpus.jsonl, one recording a line; without it the row's")
    parser.add_argument("--out", required=True, help="the folder of the results")
    parser.add_argument("--shard", default="1/1", help="i/n: only every n-th recording, from the i-th on")


def _collect(parser: argparse.ArgumentParser) -> None:
    parser.description = "Tables and one page from a sweep's results, finished or not."
    parser.add_argument("--out", required=True, help="the folder that sweep was given")


JOBS = {"doctor": _doctor, "sweep": _sweep, "collect": _collect}


@dataclass(frozen=True)
class Asked:
    """A job's options, its row, and where it takes some its recordings."""

    options: argparse.Namespace
    row: rows.Row
    recordings: tuple[Utterance, ...] = ()


def parse(job: str, arguments: Sequence[str]) -> Asked:
    """What a job is asked for. The doctor's row need not be whole: it says what is not there.

    Raises
    ------
    InputError : one line.
    """
    if job not in JOBS:
        raise InputError(f"job {shown(job)} is unknown; {did_you_mean(job, JOBS)}known: {', '.join(JOBS)}")
    parser = _OneLineParser(prog=f"./run_all.sh {job}", allow_abbrev=False)
    JOBS[job](parser)
    if job != "collect":
        parser.add_argument("--row", default=rows.DEFAULT, help="a name in data/rows, or a TOML file")
        parser.add_argument("-p", dest="single", metavar="part.key=value", action="append", default=[],
                            help="a single value of the row")  # fmt: skip
    if "--" in arguments:
        raise InputError("'--' alone is not taken; --help shows what it takes")
    options = parser.parse_args(list(arguments))
    if job == "collect":
        return Asked(options, rows.Row())
    single = _single(options.single)
    if getattr(options, "corpus", None):
        single["corpus"] = options.corpus
    row = rows.read(options.row, single, present=job != "doctor")
    return Asked(options, row, _recordings(options.shard, row) if job == "sweep" else ())


def _single(assignments: Sequence[str]) -> dict[str, str]:
    single: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"{shown(assignment)}: write it as part.key=value, for example -p judge.kind=sglang")
        if name in single:
            raise InputError(f"{shown(name)}: given twice; give it once")
        single[name] = text
    return single


def _recordings(given: str, row: rows.Row) -> tuple[Utterance, ...]:
    """The recordings of this shard."""
    shard = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", given)
    first, count = (int(one) for one in shard.groups()) if shard else (0, 0)
    if not 1 <= first <= count:
        raise InputError(f"--shard: got {shown(given)}; write i/n with i from 1 to n, for example 2/8")
    if row.corpus == rows.PROMPTS:
        raise InputError("--corpus: a sweep needs a corpus.jsonl; give one here or in the row")
    return tuple(read_manifest(row.corpus)[first - 1 :: count])


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
