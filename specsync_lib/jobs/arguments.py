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
from specsync_lib.paths import expanded
from specsync_lib.speech.manifest import Utterance, read_manifest
from specsync_lib.values import DECIMAL_PATTERN, INTEGER_PATTERN, Pattern, did_you_mean, on_one_line, shown

MOST_EACH = 1024
RAY = Pattern(
    re.compile(r"local|auto|(ray://)?[A-Za-z0-9._\[\]-]+:[0-9]{1,5}"),
    "local (this machine), auto (the cluster that this machine is in), or an address as head:6379",
)


class OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{on_one_line(message)}; --help shows what it takes")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say whether a row can run: what is there, what is missing, and what one chunk costs."
    parser.add_argument("--dry-chunk", choices=("yes", "no"), default="yes", help="whether to load all and run a chunk")


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = "Judge every recording of a corpus with a row, without video. Run it again to go on."
    parser.add_argument("--corpus", help="a corpus.jsonl, one recording a line; without it the row's")
    parser.add_argument("--out", type=expanded, required=True, help="the folder of the results")
    parser.add_argument("--shard", default="1/1", help="i/n: only every n-th recording, from the i-th on")
    parser.add_argument("--ray", metavar="WHERE", help=f"spread over Ray's workers (the extra sweep): {RAY.words}")
    parser.add_argument("--cpus-each", default="1", help="cores of each of Ray's workers")
    parser.add_argument("--gpus-each", default="0", help="GPUs of each, or a part of one as 0.25; 0: cores alone")


def _collect(parser: argparse.ArgumentParser) -> None:
    parser.description = "Tables and one page from a sweep's results, finished or not."
    parser.add_argument("--out", type=expanded, required=True, help="the folder that sweep was given")


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
    parser = OneLineParser(prog=f"./run_all.sh {job}", allow_abbrev=False)
    JOBS[job](parser)
    if job != "collect":
        parser.add_argument("--row", default=rows.DEFAULT, help="a name in data/rows, or a TOML file")
        parser.add_argument("-p", dest="single", metavar="part.key=value", action="append", default=[],
                            help="a single value of the row")  # fmt: skip
    if "--" in arguments:
        raise InputError("'--' alone is not taken; --help shows what it takes")
    options = parser.parse_args(list(arguments))
    if job == "sweep":
        _check_spread(options)
    if job == "collect":
        return Asked(options, rows.Row())
    single = _single(options.single)
    if getattr(options, "corpus", None):
        single["corpus"] = options.corpus
    row = rows.read(options.row, single, present=job != "doctor")
    return Asked(options, row, _recordings(options.shard, row) if job == "sweep" else ())


def _check_spread(options: argparse.Namespace) -> None:
    """Refuse what Ray would not take; the numbers become numbers."""
    if options.ray is not None and options.ray not in RAY:
        raise InputError(f"--ray: got {shown(options.ray)}; allowed: {RAY.words}")
    cpus, gpus = options.cpus_each, options.gpus_each
    if not INTEGER_PATTERN.fullmatch(cpus) or not 1 <= int(cpus) <= MOST_EACH:
        raise InputError(f"--cpus-each: got {shown(cpus)}; allowed: a whole number from 1 to {MOST_EACH}")
    whole = DECIMAL_PATTERN.fullmatch(gpus) and (0 <= float(gpus) <= 1 or float(gpus) in range(MOST_EACH + 1))
    if not whole:
        raise InputError(f"--gpus-each: got {shown(gpus)}; allowed: a part of 1, or a whole number to {MOST_EACH}")
    options.cpus_each, options.gpus_each = int(cpus), float(gpus)
    if options.ray is None and (options.cpus_each, options.gpus_each) != (1, 0):
        raise InputError("--cpus-each and --gpus-each are of Ray's workers; give --ray too")


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
