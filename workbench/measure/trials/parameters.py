"""Command lines: what run_all.sh and the entries behind it take and refuse, called as a person calls them.

The door is copied into a folder of its own where nothing can be installed, so that a line taken by mistake ends
there. What is to be taken is asked of the entry that run_all.sh asks first; what only the recording or the machine can
tell is asked of the entry behind it.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from specsync_lib.door.parameters import parse_arguments
from specsync_lib.paths import PROJECT_ROOT
from workbench.measure.trials.outcome import REFUSED, RIGHT, Outcome, one_line, require, survived

SHORT_EVERY = 16
TIMEOUT_S = 300
DOOR_FILES = ("run_all.sh", "specsync_lib/__init__.py", "specsync_lib/errors.py")


@dataclass(frozen=True)
class Line:
    """A command line, and what is said of it: the refusal's words, or "" and the values that are taken."""

    arguments: tuple[str, ...]
    says: str = ""
    taken: tuple[tuple[str, object], ...] = ()
    runner: bool = False


def bad(*assignments: str, says: str) -> Line:
    """-p for each; refused with these words."""
    return Line(tuple(part for one in assignments for part in ("-p", one)), says)


def good(*assignments: str, **taken: object) -> Line:
    """-p for each; taken as these values."""
    return Line(tuple(part for one in assignments for part in ("-p", one)), "", tuple(taken.items()))


@cache
def cases() -> dict[str, Line]:
    """All by name."""
    lines = [
        # names
        *(
            bad(f"{name}=0.5", says="is unknown")
            for name in (
                "thresold",
                "Threshold",
                "THRESHOLD",
                " threshold",
                "threshold ",
                "thresh-hold",
                "row",
                "rows",
                "__class__",
                "values",
                "profile_",
                "sаmple",
                "seed\u200b",
                "ｓｅｅｄ",
                "seed\0"[:-1] + "\u0301",
                "../seed",
                "audio[0]",
                "$HOME",
                "`id`",
                "%s",
                "{seed}",
                "\x1b[31mseed",
                "x" * 500,
                "名前",
                "🎤",
            )
        ),
        bad("threshold", says="write it as name=value"),
        bad("", says="write it as name=value"),
        bad("=", says="is unknown"),
        bad("=1", says="is unknown"),
        bad("seed=1", "seed=2", says="given twice"),
        bad("seed=1", "seed=1", says="given twice"),
        bad("profile=smoke", "profile=full", says="given twice"),
        # numbers
        *(
            bad(f"threshold={text}", says="parameter threshold: got")
            for text in (
                "nan",
                "NaN",
                "-nan",
                "inf",
                "-inf",
                "1e999",
                "1e-999x",
                "0x1",
                "1_0",
                "0,5",
                "½",
                "٠٫٥",
                "０．５",
                "0.5 ",
                " 0.5",
                "+-1",
                "--1",
                "1.1",
                "-0.1",
                "1e1",
                "",
                " ",
                "None",
                "True",
                "null",
                "0.5;1",
                "0.5\n0.6",
                "1/2",
                "50%",
                "0.5f",
                "9" * 400,
                "1e" + "9" * 50,
            )
        ),
        *(
            bad(f"seed={text}", says="parameter seed: got")
            for text in ("1.0", "1e3", "-1", "4294967296", "०", "１", "0b1", "1 000")
        ),
        bad("track=-1", says="got '-1'"),
        bad("track=1000", says="got '1000'"),
        bad("start_s=-0.001", says="got '-0.001'"),
        bad("duration_s=1e5", says="got '1e5'"),
        bad("max_seconds=0", says="got '0'"),
        bad("max_seconds=3600.1", says="got"),
        good("threshold=1", threshold=1.0, rule="gate"),
        good("threshold=0.", threshold=0.0),
        good("threshold=.5", threshold=0.5),
        good("threshold=5e-1", threshold=0.5),
        good("threshold=-0", threshold=0.0),
        good("threshold=1e-400", threshold=0.0),
        good("seed=+7", seed=7),
        good("seed=007", seed=7),
        good("seed=4294967295", seed=2**32 - 1),
        good("start_s=3600", start_s=3600.0),
        # choices
        bad("rule=exat", says="did you mean exact?"),
        bad("rule=EXACT", says="got 'EXACT'"),
        bad("rule=exact,gate", says="got"),
        bad("rule=", says="got ''"),
        bad("device=cuda:0", says="got 'cuda:0'"),
        bad("device=mps", says="got 'mps'"),
        bad("language=english", says="got 'english'"),
        bad("language=en-US", says="got 'en-US'"),
        bad("profile=Smoke", says="got"),
        bad("profile=smoke ", says="got 'smoke '"),
        good("language=haw", language="haw"),
        # run names
        *(
            bad(f"name={text}", says="parameter name: got")
            for text in (
                "",
                ".",
                "..",
                "../x",
                "a/b",
                "a\\b",
                "-a",
                "a-",
                "_",
                "con",
                "NUL",
                "lpt1",
                "a b",
                "a.b",
                "é",
                "x" * 65,
                "a\0b"[:1] + "\x7f",
                "~",
                "$HOME",
                "a:b",
                "*",
                "-rf",
            )
        ),
        good("name=a", name="a"),
        good("name=A_b-9", name="A_b-9"),
        good("name=" + "x" * 64, name="x" * 64),
        # words
        bad("transcript=a\nb", says="got 'a\\nb'"),
        bad("transcript=\t", says="got"),
        bad("transcript=\u2028", says="got"),
        bad("transcript=a\x1b[2J", says="got"),
        bad("transcript=a", "transcript_file=b", says="both are given"),
        good('transcript=it\'s = "so" $HOME `id` \\n %d', transcript='it\'s = "so" $HOME `id` \\n %d'),
        good("transcript=日本語 🎤", transcript="日本語 🎤"),
        good("transcript=-p seed=3", transcript="-p seed=3"),
        good("transcript=" + "word " * 9_999 + "end", transcript="word " * 9_999 + "end"),
        good("audio=--help", audio="--help"),
        # the rest of the line
        Line(("x",), "unknown mode 'x'"),
        Line(("Test",), "unknown mode 'Test'"),
        Line(("main",), "unrecognized arguments"),
        Line(("",), "unrecognized arguments"),
        Line(("-p",), "expected one argument"),
        Line(("-p", "seed=1", "-p"), "expected one"),
        Line(("--profile",), "expected one argument"),
        Line(("--profile", "fast"), "parameter profile: got 'fast'"),
        Line(("--profile", "full", "-p", "profile=full"), "given twice"),
        Line(("--profile", "smoke", "--profile", "smoke"), "given twice"),
        Line(("--fres",), "unrecognized"),
        Line(("--fresh=1",), "ignored explicit argument"),
        Line(("-pseed",), "write it as"),
        Line(("-p", "--"), "'--' alone"),
        Line(("--", "-p", "seed=1"), "'--' alone"),
        Line(("-p", "seed=1", "seed=2"), "unrecognized"),
        Line(("-p", "--threshold=0.5"), "expected one argument"),
        Line(("--row-like", "junk"), "unrecognized arguments: --row-like junk"),
        Line(("-x\ny",), "unrecognized arguments"),
        Line(("--\x1b[2J",), "unrecognized arguments"),
        Line(("--" + "y" * 9_000,), "unrecognized arguments"),
        Line(("-p" + "z" * 9_000,), "write it as name=value"),
        Line(("–profile", "smoke"), "unknown mode"),
        Line(("-h", "-p", "seed=x"), ""),
        Line(("-pseed=3",), "", (("seed", 3),)),
        Line(("--profile=smoke",), "", (("profile", "smoke"),)),
        Line(("--fresh", "--benchmark", "-p", "seed=3"), "", (("seed", 3),)),
        # what only the machine can tell
        *(
            Line(("-p", assignment), says, runner=True)
            for assignment, says in (
                ("audio=absent.wav", "does not exist"),
                ("audio=.", "is a directory"),
                ("audio=/dev/null", "not a regular file"),
                ("audio=~nobody_here/a.wav", "has no such home"),
                ("audio=https://example.com/a.wav", "is an address"),
                ("transcript_file=absent.txt", "is not a file"),
                ("transcript_file=.", "is not a file"),
                ("audio=a;rm -rf x.wav", "does not exist"),
                ("audio=" + "q" * 3_000, "cannot be read"),
                ("transcript_file=~nobody_here/a.txt", "is not a file"),
            )
        ),
        Line(("--row", "~nobody_here/a.toml"), "there is no such file"),
        Line(("--corpus", "~nobody_here/c.jsonl"), "is not there"),
    ]
    return {f"line {number:03d}: {ascii(' '.join(line.arguments))[1:41]}": line for number, line in enumerate(lines)}


def names(short: bool) -> list[str]:
    """Of the lines."""
    return list(cases())[:: SHORT_EVERY if short else 1]


def bare_door(folder: Path) -> Path:
    """run_all.sh and what it needs to refuse, in a folder of their own."""
    root = folder / "project"
    for name in (
        *DOOR_FILES,
        *(f"specsync_lib/door/{path.name}" for path in (PROJECT_ROOT / "specsync_lib/door").glob("*.py")),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT_ROOT / name, root / name)
    return root


def call(command: list, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run it in an empty folder."""
    (folder / "here").mkdir()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SPECSYNC_")}
    return subprocess.run(
        command,
        cwd=folder / "here",
        env=inherited | environment,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=False,
    )


def attempt(name: str, folder: Path) -> Outcome:
    """Call the suite with one line."""
    line = cases()[name]
    # Without assertions in the way: a check must not rest on them.
    python = [sys.executable, "-P", "-O", "-m"]
    if line.runner:
        folders = {"SPECSYNC_RUN_DIR": str(folder / "run"), "SPECSYNC_PLOTS_DIR": str(folder / "plots")}
        answer = call(
            [*python, "specsync_lib.door.runner", *line.arguments], folder, PYTHONPATH=str(PROJECT_ROOT), **folders
        )
    elif line.says or "-h" in line.arguments:
        door = bare_door(folder) / "run_all.sh"
        answer = call([door, *line.arguments], folder, SPECSYNC_PYTHON=sys.executable, PIP_NO_INDEX="1")
    else:
        answer = call([*python, "specsync_lib.door.parameters", *line.arguments], folder, PYTHONPATH=str(PROJECT_ROOT))
    require("Traceback" not in answer.stderr, f"a traceback: {answer.stderr[-300:]!r}")
    left = [path.name for path in (folder / "here").iterdir()]
    require(not left, f"left in the user's folder: {left}")
    if line.says:
        require(answer.returncode == 2, f"exit code {answer.returncode}, {answer.stderr[-300:]!r}")
        shown = one_line(answer.stderr.removesuffix("\n"))
        require(shown.isprintable(), f"a line that no terminal should be given: {shown!r}")
        require(line.says in shown, f"another line: {shown}")
        require(not answer.stdout, "on standard output")
        return survived(REFUSED, shown)
    require(answer.returncode == 0, f"refused: {answer.stderr[-300:]!r}")
    if line.taken:
        values = parse_arguments(line.arguments).values
        wrong = {key: values[key] for key, value in line.taken if values[key] != value}
        require(not wrong, f"taken as {wrong}")
    return survived(RIGHT)
