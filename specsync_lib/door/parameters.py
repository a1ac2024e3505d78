"""The strict check of everything a person may set, before anything runs.

papermill only warns about an unknown parameter; here an unknown name, a wrong type, NaN, a value out of range, an empty
or a repeated one is one line and exit code 2. This module needs the standard library alone, so that the door can refuse
bad arguments before the environment exists.
"""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from specsync_lib import rows, streams, units
from specsync_lib.errors import InputError
from specsync_lib.speech.manifest import read_manifest
from specsync_lib.values import (
    LANGUAGES,
    LARGEST_SEED,
    LONGEST_S,
    FolderName,
    Parameter,
    Range,
    Value,
    did_you_mean,
    on_one_line,
    shown,
)

# What decides that a drafted frame stands; judge/rules.py has the same names, and a test keeps them equal.
RULES = ("exact", "mouth", "lenient", "gate", "draft", "judge")
DEVICES = ("auto", "cpu", "cuda")
HELP_COLUMNS = 100

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
        Parameter("track", int, 0, Range(0, 999), "the file's sound track, from 1; 0 takes the best that decodes"),
        Parameter("start_s", float, 0.0, Range(0, LONGEST_S), "where the excerpt to work on begins, in seconds"),
        Parameter(
            "duration_s", float, 0.0, Range(0, LONGEST_S), "how long the excerpt is, in seconds; 0 goes to the end"
        ),
        Parameter(
            "max_seconds", float, float(LONGEST_S), Range(0.1, LONGEST_S), "longest recording accepted, in seconds"
        ),
        Parameter(
            "language",
            str,
            "auto",
            LANGUAGES,
            "what is spoken; where it is not given, a row's language counts before auto, which lets Whisper tell. "
            "Draft and judge learnt English, and so did the referee: in any other language the video is made, and no "
            "number that would need the truth",
            words="auto, or a code that Whisper knows, such as en, de, ja",
        ),
        Parameter(
            "transcript",
            str,
            "",
            "the words, on one line",
            "what is said in the recording (in the excerpt, where one is taken); without it the corpus' own text or "
            "Whisper's words are taken",
        ),
        Parameter(
            "transcript_file",
            str,
            "",
            "the path of a text file in UTF-8, or in UTF-16 with a byte order mark",
            "the same, from a file; give one of the two",
        ),
        Parameter(
            "rule",
            str,
            "exact",
            RULES,
            "what the video shows. exact: the plan that the judge alone would have written. mouth: exact on groups of "
            "mouth shapes. lenient: a frame stands where the judge's best names it within one frame. gate: frames at "
            "or above the threshold stand unasked, the judge writes the others. draft: the draft, no judge. judge: "
            "the judge, nothing is drafted",
        ),
        Parameter(
            "threshold",
            float,
            0.85,
            Range(0, 1),
            "confidence, recalibrated to the judge, at or above which a frame is sure; it acts in rule=gate "
            "alone. Given without a rule it selects gate",
        ),
        Parameter(
            "device", str, "auto", DEVICES, "what computes; auto takes a GPU where there is one that CUDA can use"
        ),
        Parameter(
            "decoder",
            str,
            "tiny",
            rows.DECODERS,
            "what makes pictures of latents; it counts before the row's. tiny: the small one trained for wan-mini. "
            "wan: the VAE's own decoder, slower. light: one of that kind with a quarter of its channels and random "
            "weights, which shows noise and takes the time that it would",
        ),
        Parameter(
            "chunk_slots",
            int,
            units.SLOTS_PER_CHUNK,
            Range(1, units.SLOTS_PER_CHUNK),
            "how much is heard, drafted, judged and generated at a time: 1, 2 or 3 slots of 4 video frames (133, 267 "
            "or 400 ms). Fewer are shown sooner and cost more",
        ),
        Parameter(
            "name",
            str,
            "",
            FolderName(),
            "keeps this run's video, plots and report in plots/runs/NAME; the report shows named runs side by side",
        ),
        Parameter(
            "row",
            str,
            rows.DEFAULT,
            "a name in data/rows, or a TOML file",
            "which Whisper, draft, judge and video model work. -p judge.kind=sglang and the like set single values of "
            "it; ./run_all.sh doctor --row FILE says beforehand whether a row can run",
        ),
        Parameter("seed", int, 0, Range(0, LARGEST_SEED), "start of every random generator"),
        Parameter("profile", str, "default", PROFILES, "how much is computed: smoke is a check, full is for papers"),
    )
}


@dataclass(frozen=True)
class Options:
    """What a run was asked for: every parameter's value, and whether finished notebooks count.

    ``row`` is the row that ``values["row"]`` is the text of.
    ``notes`` are lines to show before it begins, on what follows from the parameters and may surprise.
    """

    values: dict[str, Value]
    given: frozenset[str]
    notes: tuple[str, ...] = ()
    fresh: bool = False
    benchmark: bool = False
    row: rows.Row = field(default_factory=rows.Row)


def check(assignments: Sequence[str], profile: str | None = None) -> tuple[dict[str, Value], frozenset[str]]:
    """Every parameter's value for a list of ``name=value``, and the names that were given.

    Raises
    ------
    InputError: unknown or repeated name, wrong type, not finite, out of range, empty, two that exclude each other.
    """
    return _check(assignments, profile)[:2]


def _check(assignments: Sequence[str], profile: str | None = None) -> tuple[dict[str, Value], frozenset[str], rows.Row]:
    """`check`, and the row."""
    texts: dict[str, str] = {} if profile is None else {"profile": profile}
    known = PARAMETERS.keys() | rows.keys().keys()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"parameter {shown(assignment)}: write it as name=value, for example -p threshold=0.9")
        if name not in known:
            hint = did_you_mean(name, sorted(known))
            raise InputError(f"parameter {shown(name)} is unknown; {hint}known: {', '.join(PARAMETERS)}")
        if name in texts:
            raise InputError(f"parameter {name}: given twice, {shown(texts[name])} and {shown(text)}; give it once")
        texts[name] = text
    given = {name: PARAMETERS[name].parse(text) for name, text in texts.items() if name in PARAMETERS}
    if {"transcript", "transcript_file"} <= given.keys():
        raise InputError("parameters transcript and transcript_file: both are given; give the words once")
    if "threshold" in given and "rule" not in given:
        given["rule"] = "gate"
    chosen = given.get("profile", PARAMETERS["profile"].default)
    defaults = {name: parameter.profiles.get(chosen, parameter.default) for name, parameter in PARAMETERS.items()}
    values = defaults | given
    single = {name: text for name, text in texts.items() if name not in PARAMETERS}
    row = rows.read(values["row"], single)
    of_row = {"language": row.language, "decoder": row.video.decoded_by}
    values |= {"row": row.text()} | {name: given.get(name, value) for name, value in of_row.items()}
    if values["rule"] != "gate":
        values["threshold"] = PARAMETERS["threshold"].default  # it does nothing, so nothing runs again for it
    return values, frozenset(texts), row


def rule_notes(values: Mapping[str, Value], given: frozenset[str]) -> tuple[str, ...]:
    """What a threshold does, where it was given: one line."""
    if "threshold" not in given:
        return ()
    if "rule" not in given:
        return (f"threshold={values['threshold']:g} selects rule=gate; give a rule to choose another",)
    if values["rule"] != "gate":
        return (f"threshold does nothing in rule={values['rule']}; it acts in rule=gate alone",)
    return ()


class _OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{on_one_line(message)}; ./run_all.sh --help shows what it takes")


def _help_epilog() -> str:
    lines = ["parameters (-p name=value):"]
    for parameter in PARAMETERS.values():
        default = f"; default {parameter.default}" if parameter.default != "" else ""
        text = [parameter.help, f"[{parameter.allowed_text()}{default}]"]
        text += [f"--profile {name}: {value}" for name, value in parameter.profiles.items()]
        wrapped = [line for part in text for line in textwrap.wrap(part, HELP_COLUMNS)]
        lines += [f"  {parameter.name if not row else '':15} {line}" for row, line in enumerate(wrapped)]
    lines += [
        "",
        "a recording of your own, with a rule:",
        "  ./run_all.sh -p audio=my.wav                                    the judge's own plan",
        "  ./run_all.sh -p audio=my.wav -p threshold=0.6 -p name=bold      sure frames stand unasked",
        "  ./run_all.sh -p audio=my.wav -p threshold=0.95 -p name=careful  the two side by side in the report",
        "",
        "other models than the suite's own (README, Your own parts):",
        "  ./run_all.sh --row remote-judge -p judge.url=http://gpu:30000   a row, and a single value of it",
        "",
        "other modes:",
        "  ./run_all.sh test [pytest arguments]   the same set-up, then the whole test suite",
        "  ./run_all.sh lab                       JupyterLab on the notebooks",
        "  ./run_all.sh live --audio FILE|mic     at the pace of speech; --help after it shows the rest",
        "  ./run_all.sh doctor --row FILE         whether a row's models can run here, before they do",
        "  ./run_all.sh sweep, collect            a corpus through a row, and tables of it (sweep --help)",
        "",
        "environment:",
        "  SPECSYNC_TORCH_INDEX   package index to install torch from (for example a CPU-only one)",
        "  SPECSYNC_PYTHON        the Python 3.11 to 3.13 that makes .venv",
        "  SPECSYNC_CACHE         folder for model weights and speech",
        "  SPECSYNC_RUN_DIR       folder for a run's tables and numbers, in place of data/run",
        "  SPECSYNC_PLOTS_DIR     folder for its video, figures and report, in place of plots",
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
    usual = PARAMETERS["profile"].default
    parser.add_argument(
        "--profile", action="append", default=[], help=f"one of {', '.join(PROFILES)}; {usual} where none is given"
    )
    parser.add_argument("--fresh", action="store_true", help="run every notebook again, finished or not")
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="--fresh, and keep wall time and peak memory in data/measurements/cpu_report.json",
    )
    parser.add_argument("--row", action="append", default=[], help="a name in data/rows, or a TOML file: the models")
    parser.add_argument("--corpus", action="append", default=[], help="a corpus.jsonl in place of the row's corpus")
    if "--" in arguments:  # argparse would hand an empty list on as the value before it
        raise InputError("'--' alone is not taken; write -p name=value; ./run_all.sh --help shows what it takes")
    options = parser.parse_args(list(arguments))
    assignments = [f"{name}={text}" for name in ("profile", "row", "corpus") for text in getattr(options, name)]
    assignments += options.assignments
    values, given, row = _check(assignments)
    fresh = options.fresh or options.benchmark
    notes = rule_notes(values, given)
    if row.corpus != rows.PROMPTS:
        read_manifest(row.corpus)
    return Options(values, given, notes, fresh=fresh, benchmark=options.benchmark, row=row)


def main(arguments: Sequence[str]) -> int:
    """Check a command line and say nothing when it is good."""
    try:
        parse_arguments(arguments)
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    streams.settle()
    sys.exit(main(sys.argv[1:]))
