"""Broken rows, manifests and servers: one line and exit code 2 from the command that takes them, nothing left behind.

Rows go through the check that run_all.sh asks first, manifests and servers through a sweep, which is what a researcher
starts over them. A server is the tiny model's (`tests.toys.servers`) with a fault; where it shows at the start the
sweep ends, where it shows later its recordings have no result and the next start tries them again.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from specsync_lib.door import parameters
from specsync_lib.errors import InputError
from specsync_lib.jobs import sweep
from specsync_lib.judge.policy import load_policy
from specsync_lib.pipeline.models import Listeners
from specsync_lib.rows import Row
from specsync_lib.speech.audio import write_flac
from tests.speech.test_manifest import BROKEN as BROKEN_MANIFESTS
from tests.toys.broken_rows import BROKEN as BROKEN_ROWS
from tests.toys.fronts import toy_draft, toy_ears
from tests.toys.reasoner import byte_tokenizer
from tests.toys.servers import FAULTS, KINDS, ToyServer, serving
from workbench.measure.trials.outcome import REFUSED, Outcome, one_line, require, survived

SHORT_EVERY = 24
ASKED_AGAIN = "no result, and one after the next start"
RECORDINGS, TIMEOUT_S, PATIENT_S = 2, 5.0, 60.0  # the first where a server hangs
LATER = ("hangs", "fails", "cuts")  # what a server does once it has been asked at the start


@cache
def cases() -> dict[str, Callable[[Path], Outcome]]:
    """By name."""
    found: dict[str, Callable[[Path], Outcome]] = {}
    for what, (text, says) in BROKEN_ROWS.items():
        found[f"row: {what}"] = partial(broken_row, text, says)
    for what, (lines, says) in BROKEN_MANIFESTS.items():
        found[f"manifest: {what}"] = partial(broken_manifest, lines, says)
    for kind in KINDS:
        found[f"server: {kind}, nobody there"] = partial(broken_server, kind, None)
        found |= {f"server: {kind}, {fault}": partial(broken_server, kind, fault) for fault in FAULTS}
        found |= {f"server: {kind}, {what} later": partial(failing_server, kind, what) for what in LATER}
    return found


def names(short: bool) -> list[str]:
    """Rows, manifests, servers."""
    return list(cases())[:: SHORT_EVERY if short else 1]


def attempt(name: str, folder: Path) -> Outcome:
    """One of them."""
    return cases()[name](folder)


def said_of(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Exit code, and the lines that a command said of itself (a progress bar's are none)."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    said = errors.getvalue()
    require("Traceback (most" not in said, f"a traceback: {said[-300:]!r}")
    return code, [line for line in said.replace("\r", "\n").splitlines() if line.startswith("specsync: ")]


def refused(code: int, lines: Sequence[str], says: str = "") -> Outcome:
    """One line and exit code 2."""
    require(code == InputError.EXIT_CODE, f"exit code {code}: {lines}")
    require(len(lines) == 1 and says in lines[0], f"not the line: {lines}")
    return survived(REFUSED, one_line(lines[0]))


def broken_row(text: str | bytes, says: str, folder: Path) -> Outcome:
    """A row's file as run_all.sh's first check sees it."""
    path = folder / "row.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    code, lines = said_of(parameters.main, ["--row", str(path)])
    require([one.name for one in folder.iterdir()] == ["row.toml"], "something is left")
    return refused(code, lines, says)


def broken_manifest(lines: Sequence, says: str, folder: Path) -> Outcome:
    """A corpus as a sweep sees it."""
    for name in ("a.wav", "b.wav", "c.wav"):
        (folder / name).write_bytes(b"")
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    code, said = said_of(sweep.main, ["--corpus", str(path), "--out", str(folder / "out")])
    require(not (folder / "out").exists(), "something is left")
    return refused(code, said, says)


def served_sweep(
    folder: Path, kind: str, url: str, loaded: Callable[[], None] = lambda: None, timeout_s: float = PATIENT_S
) -> tuple[int, list[str], int]:
    """A sweep with toy ears and a served judge: exit code, lines, and how many results there are then; ``loaded`` is
    called when the judge has been."""
    import numpy as np

    from specsync_lib.judge.loading import load_judge

    if not (folder / "tiny").exists():
        byte_tokenizer().save_pretrained(folder / "tiny")
        rng = np.random.default_rng(0)
        for number in range(RECORDINGS):
            write_flac(folder / f"{number}.flac", (0.1 * rng.standard_normal(6400)).astype(np.float32))
        entries = [json.dumps({"id": str(number), "audio": f"{number}.flac"}) for number in range(RECORDINGS)]
        (folder / "corpus.jsonl").write_text("\n".join(entries))
    given = {"kind": kind, "url": url, "source": str(folder / "tiny"), "adapter": "none", "weights": "random",
             "timeout_s": str(timeout_s), "retries": "0"}  # fmt: skip
    arguments = [part for key, value in given.items() for part in ("-p", f"judge.{key}={value}")]

    def listeners(row: Row, device: str) -> Listeners:
        judge = load_judge(row.judge)
        loaded()
        return Listeners(toy_draft(), toy_ears(), judge, load_policy())

    usual, sweep.load_listeners = sweep.load_listeners, listeners
    try:
        out = folder / "out"
        code, lines = said_of(sweep.main, ["--corpus", str(folder / "corpus.jsonl"), "--out", str(out), *arguments])
    finally:
        sweep.load_listeners = usual
    return code, lines, len(list(out.glob("results/[!.]*.json")))


def broken_server(kind: str, fault: str | None, folder: Path) -> Outcome:
    """A server whose answers can not be believed from the start on, or none."""
    toy = ToyServer()
    with serving(toy) as url:
        toy.fault = FAULTS[fault][0] if fault else toy.fault
        code, lines, results = served_sweep(folder, kind, url) if fault else (0, [], 0)
    if fault is None:
        code, lines, results = served_sweep(folder, kind, url)
    require(results == 0 and not (folder / "out").exists(), "something is left")
    return refused(code, lines)


def failing_server(kind: str, what: str, folder: Path) -> Outcome:
    """A server that goes wrong once the judge is loaded: no result; when it is sound again the sweep is whole."""
    toy = ToyServer()

    def go_wrong() -> None:
        if what == "hangs":
            toy.answers.clear()
        toy.failures, toy.cuts = (99 * (what == word) for word in ("fails", "cuts"))

    with serving(toy) as url:
        code, lines, results = served_sweep(folder, kind, url, go_wrong, TIMEOUT_S if what == "hangs" else PATIENT_S)
        require((code, results) == (1, 0), f"exit code {code} with {results} results: {lines}")
        require(not (folder / "out").exists(), "something is left")
        toy.answers.set()
        toy.failures = toy.cuts = 0
        code, _, results = served_sweep(folder, kind, url)
        require((code, results) == (0, RECORDINGS), f"the next start: exit code {code} with {results} results")
    require(len(lines) == RECORDINGS, f"not a line a recording: {lines}")
    return survived(ASKED_AGAIN, "; ".join(map(one_line, lines)))
