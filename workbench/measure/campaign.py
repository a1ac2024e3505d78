"""The campaign: hundreds of bad inputs and thousands of moments, tried on the suite; what is lost is a fault to mend.

    python -m workbench.measure.campaign                     # everything; takes about an hour on two cores
    python -m workbench.measure.campaign --only sounds kills # some sections, the others keep their last result
    python -m workbench.measure.campaign --short             # a few of each, as the tests do
    python -m workbench.measure.campaign --only --fuzz PYTHON  # the fuzzers, with a Python that has atheris

A case *survives* with the right answer or with one clear line and exit code 2. It is *lost* with a traceback, a process
that dies, hangs or is left over, a torn file under its final name, or a wrong result that nothing tells of.

Cases run in a process of their own, watched from here: one that dies or stands still costs its own case. Every finished
case is kept at once, so that the same command goes on after a stop; ``--fresh`` begins anew.
"""

import argparse
import contextlib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import psutil

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import MEASUREMENTS_DIR, PROJECT_ROOT, RUN_DIR
from specsync_lib.provenance import machine, usable_cores
from workbench.measure.trials.outcome import Outcome

OUT = MEASUREMENTS_DIR / "campaign.json"
KEPT = RUN_DIR / "campaign"
SHOWN_LOST = 50  # lines of lost cases in the file
SERVING = ("-m", "workbench.measure.campaign", "--serve")
FUZZERS = {  # their longest input in bytes
    "parameters": 2_000,
    "words": 2_000,
    "audio": 40_000,
    "rows": 2_000,
}
FUZZ_S, FUZZ_HANGS_S = 600, 20
# Under atheris a decoded file leaves some 60 KiB behind (fixed inputs in turn, too); without it 6,000 leave nothing.
FUZZ_MEMORY_MIB = 4096


@dataclass(frozen=True)
class Section:
    """What is tried, how many of it the campaign owes, and after how many seconds a case counts as hanging.

    The seconds are those of a machine that does nothing else."""

    what: str
    owed: int
    limit_s: float
    module: str

    def names(self, short: bool) -> list[str]:
        """Its cases."""
        return import_module(f"workbench.measure.trials.{self.module}").names(short)


SECTIONS = {
    "sounds": Section(
        "bad or odd sound files and paths, through the door's own check and the decoder", 80, 120, "sounds"
    ),
    "transcripts": Section("transcripts as people write and paste them", 60, 60, "transcripts"),
    "parameters": Section("command lines, through run_all.sh and the entries behind it", 40, 330, "parameters"),
    "rows": Section("broken rows, manifests and servers of one's own parts", 100, 120, "rows"),
    "chunk_sizes": Section(
        "chunks of 1, 2 and 3 slots, and of sizes that there are not, by run, live and rows",
        100,
        120,
        "chunk_sizes",
    ),
    "judges": Section("faults of the judge, each under both policies or a rule", 25, 120, "judges"),
    "kills": Section("a run killed at a random moment and begun again", 100, 1800, "kills"),
    "cancels": Section("streams cancelled at a random call of a random stage", 1_000, 300, "cancels"),
    "schedules": Section("schedules of misbehaving stages, in virtual time", 10_000, 600, "schedules"),
    "soak": Section("chunks of one long stream, with threads in real time", 10_000, 1800, "long_stream"),
    "starts": Section("starts of speech after silence", 10_000, 600, "starts"),
    "interruptions": Section("a speaker cut off, and another utterance within a chunk", 1_000, 600, "interruptions"),
}


# --- the process that tries -------------------------------------------------------------------------------------------


def serve(section: str) -> None:
    """Try the cases that are named on standard input, a line each; an Outcome as a line of JSON for every one."""
    module = import_module(f"workbench.measure.trials.{SECTIONS[section].module}")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        name = json.loads(line)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                outcome = module.attempt(name, Path(folder))
            except AssertionError as error:
                outcome = Outcome(lost=[" ".join(str(error).split())[:400] or traceback.format_exc()[-300:]])
            except BaseException as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(at.filename).name}:{at.lineno}"
                outcome = Outcome(lost=[f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:300]}"])
        answers.write(json.dumps(vars(outcome)) + "\n")
        answers.flush()


class Trier:
    """The watched process of one section."""

    def __init__(self, section: str, errors: Path) -> None:
        command = [sys.executable, "-P", *SERVING, section]
        environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        self._errors = errors.open("ab")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=PROJECT_ROOT,
            env=environment,
        )
        self._known = psutil.Process(self._process.pid)
        self._process.stdout.readline()  # it is ready, or will not be: imports are not the case's time

    def __call__(self, name: str, limit_s: float) -> Outcome | None:
        """The case's outcome; None: the process died or was ended, and a new one is needed."""
        with contextlib.suppress(BrokenPipeError):  # it died at its start: what it did not answer says so
            self._process.stdin.write(json.dumps(name).encode() + b"\n")
            self._process.stdin.flush()
        started, ready = time.monotonic(), []
        while not ready and time.monotonic() - started < limit_s * _crowd():
            ready, _, _ = select.select([self._process.stdout], [], [], 1.0)
        if not ready:
            self.close()
            return Outcome(lost=[f"no answer within {limit_s:g} s"])
        if answer := self._process.stdout.readline():
            fields = json.loads(answer)
            return Outcome(**fields | {"how": Counter(fields["how"])})
        code = self._process.wait()
        return Outcome(lost=[f"the process died (exit code {code})"])

    @property
    def alive(self) -> bool:
        """Whether another case can be tried."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process and what it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (*self._known.children(recursive=True), self._known):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._errors.close()


def _crowd() -> float:
    """How many processes share a core: what others do to the machine is no hang."""
    return max(1.0, os.getloadavg()[0] / usable_cores())


# --- the sections -----------------------------------------------------------------------------------------------------


def tried(section: str, names: list[str], kept: Path, known_alone: bool = False) -> Iterator[tuple[str, Outcome]]:
    """Every case's outcome, from the file of what is kept or tried now and kept there."""
    known = {}
    if kept.exists():
        for line in kept.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a killed campaign
                one = json.loads(line)
                name = one.pop("name")
                known[name] = Outcome(**one | {"how": Counter(one["how"])})
    trier = None
    try:
        with kept.open("a", encoding="utf-8") as file:
            for name in names:
                if name not in known and known_alone:
                    continue
                if name not in known:
                    trier = trier if trier and trier.alive else Trier(section, kept.with_suffix(".stderr"))
                    known[name] = trier(name, SECTIONS[section].limit_s)
                    file.write(json.dumps({"name": name} | vars(known[name])) + "\n")
                    file.flush()
                yield name, known[name]
    finally:
        if trier:
            trier.close()


def run_section(section: str, short: bool, kept: Path, known_alone: bool = False) -> dict:
    """Try a section; its entry in the file."""
    started, how, lost, facts = time.monotonic(), Counter(), [], {}
    names = SECTIONS[section].names(short)
    for number, (name, outcome) in enumerate(tried(section, names, kept, known_alone), start=1):
        how += outcome.how
        lost += [f"{name}: {line}" for line in outcome.lost]
        for key, value in outcome.facts.items():
            facts[key] = facts[key] + value if key in facts and isinstance(value, int | float) else value
        for line in outcome.lost:
            print(f"  lost: {name}: {line}", flush=True)
        if number % max(1, len(names) // 10) == 0:
            print(f"{section}: {number} of {len(names)} cases, {len(lost)} lost", flush=True)
    survived = sum(how.values())
    owed = SECTIONS[section].owed
    return {
        "what": SECTIONS[section].what,
        "owed": owed,
        "tried": survived + len(lost),
        "survived": survived,
        "lost": len(lost),
        "how": dict(how.most_common()),
        "lost_cases": lost[:SHOWN_LOST],
        **({"facts": facts} if facts else {}),
        "seconds_of_this_command": round(time.monotonic() - started, 1),
        "machine": machine(),
    }


def write(out: Path, sections: dict, fuzzers: dict, short: bool, note: str | None = None) -> None:
    """The file, as far as it goes; ``note`` is a person's, under which conditions it was made."""
    sections = {name: sections[name] for name in SECTIONS if name in sections}
    content = {
        "label": "measured",
        "what": "bad inputs and hard moments tried on the suite",
        "command": "python -m workbench.measure.campaign" + " --short" * short,
        "provenance": max((one["machine"] for one in sections.values()), key=lambda made: made["date"], default={}),
        "survived": "the right answer, or one clear line and exit code 2",
        "lost": "a traceback, a dead, hanging or left-over process, a torn file, or a wrong result without a word",
        **({"note": note} if note else {}),
        "total": {key: sum(one[key] for one in sections.values()) for key in ("tried", "survived", "lost")},
        "fell_short": [name for name, one in sections.items() if one["tried"] < one["owed"]],
        "sections": sections,
        "fuzzers": fuzzers,
    }
    write_json(out, content)


def fuzz(name: str, python: str, folder: Path) -> dict:
    """Run one of tests/fuzz for FUZZ_S; what it found lies in the folder."""
    command = [
        python, "-P", f"tests/fuzz/fuzz_{name}.py", f"-max_total_time={FUZZ_S}", f"-timeout={FUZZ_HANGS_S}",
        f"-max_len={FUZZERS[name]}", f"-rss_limit_mb={FUZZ_MEMORY_MIB}", "-print_final_stats=1",
        f"-artifact_prefix={folder}/{name}-",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, check=False)
    return fuzzed(answer.stderr.decode(errors="replace"), answer.returncode)


def fuzzed(log: str, code: int) -> dict:
    """What a fuzzer's log says: how many inputs, how long, whether it ended on a finding."""
    executed = re.search(r"stat::number_of_executed_units: (\d+)", log)
    seconds = re.search(r"Done \d+ runs in (\d+) second", log)
    slowest = re.search(r"stat::slowest_unit_time_sec: +(\d+)", log)
    hang = "libFuzzer: timeout" in log
    return {
        "inputs": int(executed[1]) if executed else 0,
        "seconds": int(seconds[1]) if seconds else 0,
        "slowest_s": int(slowest[1]) if slowest else None,
        "crashes": int(code != 0 and not hang),
        "hangs": int(hang),
        "machine": machine(),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS), help="sections; default: all")
    parser.add_argument("--fuzz", metavar="PYTHON", help="run the fuzzers with this Python, which has atheris")
    parser.add_argument("--fuzzers", nargs="+", choices=FUZZERS, default=list(FUZZERS), help="which; default: all")
    parser.add_argument("--short", action="store_true", help="a few cases of each section")
    parser.add_argument("--fresh", action="store_true", help="try again what is kept of an earlier command")
    parser.add_argument("--known", action="store_true", help="try nothing: write what is kept of a stopped command")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON to write")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of finished cases")
    parser.add_argument("--serve", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve)
        return 0
    options.kept.mkdir(parents=True, exist_ok=True)
    content = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    sections, fuzzers, note = content.get("sections", {}), content.get("fuzzers", {}), content.get("note")
    for section in options.only:
        kept = options.kept / f"{section}.jsonl"
        if options.fresh:
            kept.unlink(missing_ok=True)
        sections[section] = run_section(section, options.short, kept, options.known)
        write(options.out, sections, fuzzers, options.short, note)
    for name in options.fuzzers if options.fuzz else ():
        fuzzers[name] = fuzz(name, options.fuzz, options.kept)
        print(f"fuzzer {name}: {fuzzers[name]}", flush=True)
        write(options.out, sections, fuzzers, options.short, note)
    for name, one in sections.items():
        print(f"{name}: {one['tried']} tried, {one['survived']} survived, {one['lost']} lost")
    return 1 if any(sections[name]["lost"] for name in options.only) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(InputError.EXIT_CODE)
