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
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from specsync_lib import streams
from specsync_lib.errors import InputError

# What decides that a drafted frame stands; judge/rules.py has the same names, and a test keeps them equal.
RULES = ("exact", "mouth", "lenient", "gate", "draft", "judge")
# The languages of Whisper base's vocabulary (openai-whisper, tokenizer.LANGUAGES but for the last one, large-v3's).
LANGUAGES = (
    "auto", "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id",
    "hi", "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la",
    "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne",
    "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd",
    "gu", "am", "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt",
    "haw", "ln", "ha", "ba", "jw", "su",
)  # fmt: skip
DEVICES = ("auto", "cpu", "cuda")
DECODERS = ("wan", "light", "tiny")  # of face/decoders/rows.py, and a test keeps them equal
DECIMAL_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
INTEGER_PATTERN = re.compile(r"[+-]?[0-9]{1,18}")
SHOWN_CHARACTERS = 60
LONGEST_MESSAGE = 200  # of argparse, which quotes what it was given
HELP_COLUMNS = 100

Value = str | int | float


@dataclass(frozen=True)
class Range:
    """A closed interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class FolderName:
    """The name of one folder on any system: no path, no hidden file, no device."""

    PATTERN = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?", re.IGNORECASE)
    # Windows keeps these for devices, in any folder and with any ending.
    DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(10))})

    def __contains__(self, value: str) -> bool:
        return self.PATTERN.fullmatch(value) is not None and value.lower() not in self.DEVICES


@dataclass(frozen=True)
class Parameter:
    """One notebook parameter: the same name means the same thing in every notebook that declares it.

    ``allowed`` is a tuple of choices, a Range, a FolderName, or for free text the words that describe it. ``words``
    describes choices that are too many to list. ``profiles`` holds the values that a profile puts in place of the
    default.
    """

    name: str
    type: type[str] | type[int] | type[float]
    default: Value
    allowed: tuple[str, ...] | Range | FolderName | str
    help: str
    words: str = ""
    profiles: Mapping[str, Value] = field(default_factory=dict)

    def allowed_text(self) -> str:
        """The allowed values in words."""
        if self.words:
            return self.words
        match self.allowed:
            case Range(low, high):
                return f"{'a whole' if self.type is int else 'a'} number from {low} to {high}"
            case FolderName():
                return "1 to 64 letters, digits, - and _, with a letter or a digit at both ends"
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
            hint = "" if self.words or not isinstance(self.allowed, tuple) else did_you_mean(text, self.allowed)
            raise InputError(f"parameter {self.name}: got {shown(text)}; {hint}allowed: {self.allowed_text()}")
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


def on_one_line(message: str) -> str:
    """A message that may quote anything: what cannot be printed is escaped, what is longer than two lines is cut."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)
    return line if len(line) <= LONGEST_MESSAGE else f"{line[: LONGEST_MESSAGE - 3]}..."


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
        Parameter("start_s", float, 0.0, Range(0, 3600), "where the excerpt to work on begins, in seconds"),
        Parameter("duration_s", float, 0.0, Range(0, 3600), "how long the excerpt is, in seconds; 0 goes to the end"),
        Parameter("max_seconds", float, 3600.0, Range(0.1, 3600), "longest recording accepted, in seconds"),
        Parameter(
            "language",
            str,
            "auto",
            LANGUAGES,
            "what is spoken; auto lets Whisper tell. Draft and judge learnt English, and so did the referee: in any "
            "other language the video is made, and no number that would need the truth",
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
            "the path of a text file in UTF-8",
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
            DECODERS,
            "what makes pictures of wan-mini's latents. tiny: the small one trained here. wan: the VAE's own decoder, "
            "slower. light: one of that kind with a quarter of its channels and random weights, which shows noise and "
            "takes the time that it would",
        ),
        Parameter(
            "name",
            str,
            "",
            FolderName(),
            "keeps this run's video, plots and report in plots/runs/NAME; the report shows named runs side by side",
        ),
        Parameter("seed", int, 0, Range(0, 2**32 - 1), "start of every random generator"),
        Parameter("profile", str, "default", PROFILES, "how much is computed: smoke is a check, full is for papers"),
    )
}


@dataclass(frozen=True)
class Options:
    """What a run was asked for: every parameter's value, and whether finished notebooks count.

    ``notes`` are lines to show before it begins, on what follows from the parameters and may surprise.
    """

    values: dict[str, Value]
    given: frozenset[str]
    notes: tuple[str, ...] = ()
    fresh: bool = False
    benchmark: bool = False


def check(assignments: Sequence[str], profile: str | None = None) -> tuple[dict[str, Value], frozenset[str]]:
    """Every parameter's value for a list of ``name=value``, and the names that were given.

    Raises
    ------
    InputError: unknown or repeated name, wrong type, not finite, out of range, empty, two that exclude each other.
    """
    texts: dict[str, str] = {} if profile is None else {"profile": profile}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"parameter {shown(assignment)}: write it as name=value, for example -p threshold=0.9")
        if name not in PARAMETERS:
            hint = did_you_mean(name, PARAMETERS)
            raise InputError(f"parameter {shown(name)} is unknown; {hint}known: {', '.join(PARAMETERS)}")
        if name in texts:
            raise InputError(f"parameter {name}: given twice, {shown(texts[name])} and {shown(text)}; give it once")
        texts[name] = text
    given = {name: PARAMETERS[name].parse(text) for name, text in texts.items()}
    if {"transcript", "transcript_file"} <= given.keys():
        raise InputError("parameters transcript and transcript_file: both are given; give the words once")
    if "threshold" in given and "rule" not in given:
        given["rule"] = "gate"
    chosen = given.get("profile", PARAMETERS["profile"].default)
    defaults = {name: parameter.profiles.get(chosen, parameter.default) for name, parameter in PARAMETERS.items()}
    values = defaults | given
    if values["rule"] != "gate":
        values["threshold"] = PARAMETERS["threshold"].default  # it does nothing, so nothing runs again for it
    return values, frozenset(texts)


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the known words, empty where none is near."""
    close = difflib.get_close_matches(text, known, n=1)
    return f"did you mean {close[0]}? " if close else ""


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
        "other modes:",
        "  ./run_all.sh test [pytest arguments]   the same set-up, then the whole test suite",
        "  ./run_all.sh lab                       JupyterLab on the notebooks",
        "  ./run_all.sh live --audio FILE|mic     at the pace of speech; --help after it shows the rest",
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
    if "--" in arguments:  # argparse would hand an empty list on as the value before it
        raise InputError("'--' alone is not taken; write -p name=value; ./run_all.sh --help shows what it takes")
    options = parser.parse_args(list(arguments))
    assignments = [*options.assignments, *(f"profile={name}" for name in options.profile)]
    values, given = check(assignments)
    fresh = options.fresh or options.benchmark
    return Options(values, given, rule_notes(values, given), fresh=fresh, benchmark=options.benchmark)


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
