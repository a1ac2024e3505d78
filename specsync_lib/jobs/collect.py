"""Tables and one page from a sweep's results: acceptance and coverage, by speaker and language, the worst recordings.

    ./run_all.sh collect --out results

Intervals draw whole speakers where the corpus names at least two, else whole recordings. Written beside the results,
and nowhere else: ``recordings.csv``, ``groups.csv``, ``acceptance.csv`` with its figure, ``report.html``; with pyarrow
(the extra ``sweep``) ``recordings.parquet`` and ``frames.parquet``, a row a frame.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.figures import style
from specsync_lib.figures.acceptance import draw_acceptance
from specsync_lib.files import atomic_path, require_place, write_text
from specsync_lib.jobs.arguments import parse
from specsync_lib.jobs.ending import ended
from specsync_lib.jobs.result import RESULTS
from specsync_lib.jobs.sweep import SWEEP_FILE
from specsync_lib.measures.acceptance import acceptance_table
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_unit
from specsync_lib.pipeline.system import DEFAULT_THRESHOLD
from specsync_lib.provenance import package_version
from specsync_lib.speech.manifest import read_manifest
from specsync_lib.values import on_one_line

WORST = 20
SHARES = {"stands": "draft stands", "draft_right": "draft right", "judge_right": "judge right"}
COLUMNS = ["id", "speaker", "language", "split", "audio", "seconds", "frames", "chunks", "passes", *SHARES, "wall_s",
           "why_no_truth", "error"]  # fmt: skip
# What a sweep's file and every result hold, and what a recording that was read has besides.
ABOUT = {"row": str, "digests": dict}
FACTS = {**dict.fromkeys(("id", "speaker", "language", "split", "audio", "label", "engine"), str), "frames": int}
MEASURED = {**dict.fromkeys(("seconds", "wall_s"), (int, float)), "chunks": int, "passes": int, "confidence": list,
            "stands": list}  # fmt: skip
AGAIN = "remove it and run ./run_all.sh sweep again"
PAGE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>SpecSync: a sweep</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } img { max-width: 100%; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #dfe3e8; }
</style></head><body>
<h1>Row {{ row.name }}</h1>
<p>{% for fact in facts %}{{ fact }}<br>{% endfor %}</p>
<h2>Acceptance and coverage</h2>
<p>{{ label }}; rule exact; {{ drawn }} are drawn for the intervals (95 %).</p>
<img src="acceptance.png" alt="acceptance and coverage by threshold">
<h2>By group</h2>{{ groups }}
<h2>The recordings whose draft stands least</h2>
<table><tr><th>recording</th><th>speaker</th><th>draft stands</th><th>frames</th></tr>
{% for one in worst %}<tr><td><a href="{{ one.audio }}">{{ one.id }}</a></td><td>{{ one.speaker }}</td>
<td>{{ "%.1f"|format(100 * one.stands) }} %</td><td>{{ one.frames }}</td></tr>{% endfor %}</table>
{% if failed %}<h2>Could not be read</h2><ul>
{% for one in failed %}<li>{{ one.id }}: {{ one.error }}</li>{% endfor %}</ul>{% endif %}
</body></html>
""")


def read_results(out: Path) -> tuple[dict, list[dict]]:
    """What a folder is a sweep of, and its results, ordered by id; what is by frame as arrays.

    Raises
    ------
    InputError : it holds no sweep, or one of which a file is damaged or older.
    """
    path = out / SWEEP_FILE
    if not os.path.isfile(path):  # noqa: PTH113 - raises for no name
        raise InputError(f"--out: {out} holds no sweep that can be read (no {SWEEP_FILE}); run ./run_all.sh sweep")
    about = _loaded(path)
    _check(about, ABOUT, path)
    found = [_result(path) for path in sorted((out / RESULTS).glob("[!.]*.json"))]
    if len(labels := {one["label"] for one in found}) > 1:
        several = ", ".join(sorted(labels))
        raise InputError(f"--out: {out / RESULTS} holds results of several labels ({several}); {AGAIN}")
    return about, sorted(found, key=lambda one: one["id"])


def _loaded(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--out: {path} can not be read ({on_one_line(str(error))}); {AGAIN}") from error


def _check(found: object, kinds: dict[str, type | tuple[type, ...]], path: Path) -> None:
    """Refuse what is no object with these keys, of these types."""
    for key, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise InputError(f"--out: {path} is damaged, or of an older sweep (its {key}); {AGAIN}")


def _result(path: Path) -> dict:
    """A result, what is by frame as arrays."""
    one = _loaded(path)
    _check(one, FACTS, path)
    _check(one, MEASURED if one["frames"] else {}, path)
    for name in ("confidence", *SHARES):
        given = [np.nan] * one["frames"] if one.get(name) is None else one[name]
        try:
            one[name] = np.array(given, np.float64 if name == "confidence" else np.float32)
        except (ValueError, TypeError) as error:
            raise InputError(f"--out: {path} is damaged (its {name}); {AGAIN}") from error
        if one[name].shape != (one["frames"],):
            wrong = f"its {name} is not of {one['frames']} frames"
            raise InputError(f"--out: {path} is damaged ({wrong}); {AGAIN}")
    return one


def recordings_table(found: Sequence[dict]) -> pd.DataFrame:
    """COLUMNS, a row a recording; shares of its frames, empty where there is no truth."""
    shares = [{name: one[name].mean() if one["frames"] else np.nan for name in SHARES} for one in found]
    return pd.DataFrame([one | means for one, means in zip(found, shares, strict=True)]).reindex(columns=COLUMNS)


def frames_table(found: Sequence[dict]) -> pd.DataFrame:
    """A row a frame: id, speaker, language as categories, confidence and SHARES (NaN without truth)."""
    read = [one for one in found if one["frames"]]
    lengths = [one["frames"] for one in read]
    facts = {
        name: pd.Categorical([one[name] for one in read]).take(np.repeat(np.arange(len(read)), lengths))
        for name in ("id", "speaker", "language")
    }
    return pd.DataFrame(facts | {name: np.concatenate([one[name] for one in read]) for name in ("confidence", *SHARES)})


def write_parquet(tables: dict[str, pd.DataFrame], out: Path) -> str:
    """Tables as ``NAME.parquet``; why there are none, where pyarrow is not installed."""
    try:
        for name, table in tables.items():
            with atomic_path(out / f"{name}.parquet") as path:
                table.to_parquet(path, index=False, compression="zstd")
    except ImportError:
        return "no Parquet: pyarrow is not installed; .venv/bin/pip install -e '.[sweep]'"
    return ""


def groups_table(frames: pd.DataFrame) -> pd.DataFrame:
    """SHARES with intervals: of all, of every language and of every speaker."""
    found = []
    for kind in ("all", "language", "speaker"):
        for name, part in frames.assign(all="all").groupby(kind, sort=True, observed=True):
            unit = drawn_unit(part, "speaker", "id")
            line = {"kind": kind, "name": name, "recordings": part["id"].nunique(), "frames": len(part)}
            for share in SHARES:
                known = part[part[share].notna()]
                if len(known):
                    score = bootstrap_by_group(
                        known[share].to_numpy(), pd.factorize(known[unit])[0], rng=np.random.default_rng(0)
                    )
                    line |= {share: score.value, f"{share}_low": score.low, f"{share}_high": score.high}
            found.append(line)
    ends = [f"{share}{end}" for share in SHARES for end in ("", "_low", "_high")]
    return pd.DataFrame(found).reindex(columns=["kind", "name", "recordings", "frames", *ends]).round(5)


def collect(out: Path) -> tuple[Path, list[str]]:
    """Write the tables and the page; returns the page, and a line on each thing that could not be read or written.

    Raises
    ------
    InputError : there is no result yet, the sweep is damaged or older, or nothing can be written there.
    """
    about, found = read_results(out)
    require_place(out, "--out")
    try:
        row = rows.read(about["row"], present=False)
    except InputError as error:
        raise InputError(f"--out: {out} is a sweep of a row that is taken no more ({error}); sweep again into another "
                         "folder") from error  # fmt: skip
    lines = []
    if Path(row.corpus).is_file():  # what has left the corpus since is no result of it
        try:
            names = {one.id for one in read_manifest(row.corpus)}
            found = [one for one in found if one["id"] in names]
        except InputError as error:
            lines.append(f"{error}; all results are shown, also of recordings that have left the corpus")
    if not any(one["frames"] for one in found):
        raise InputError(f"--out: {out} holds no result yet; run ./run_all.sh sweep")
    frames = frames_table(found)
    unit, recordings, groups = drawn_unit(frames, "speaker", "id"), recordings_table(found), groups_table(frames)
    for name, table in (("recordings", recordings.round(5)), ("groups", groups)):
        with atomic_path(out / f"{name}.csv") as path:
            table.to_csv(path, index=False)
    lacking = write_parquet({"recordings": recordings, "frames": frames}, out)
    table = acceptance_table(
        frames["confidence"].to_numpy(), frames["stands"].to_numpy(), pd.factorize(frames[unit])[0],
        np.arange(101) / 100, rng=np.random.default_rng(0),
    )  # fmt: skip
    label = found[0]["label"]
    style.use_style()
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9, 5))
    draw_acceptance(table, DEFAULT_THRESHOLD, ax, judge="the judge", confidence="the draft's confidence:", label=label)
    style.save_figure(fig, "acceptance", table, out)
    plt.close(fig)
    read = recordings[recordings["frames"] > 0]
    facts = [
        f"judge: {', '.join(sorted({one['engine'] for one in found}))}; "
        + ", ".join(f"{name} {package_version(name)}" for name in ("specsync", "transformers", "torch")),
        f"differs from the default row in: {', '.join(row.differences()) or 'nothing'}",
        *(f"sha256 of {key}: {digest}" for key, digest in about["digests"].items()),
        f"{len(read)} recordings, {read['seconds'].sum() / 3600:.2f} h, {len(frames)} frames, "
        f"{len(recordings) - len(read)} that could not be read",
        *lines,
    ]
    page = out / "report.html"
    write_text(page, PAGE.render(
        row=row, facts=facts, label=label, drawn={"speaker": "whole speakers", "id": "whole recordings"}[unit],
        groups=jinja2.utils.markupsafe.Markup(groups.to_html(index=False, na_rep="", border=0)),
        worst=read.nsmallest(WORST, "stands").to_dict("records"),
        failed=recordings[recordings["frames"] == 0].to_dict("records"),
    ))  # fmt: skip
    return page, [*lines, *filter(None, [lacking])]


def main(arguments: Sequence[str]) -> int:
    """Collect, and say where the page lies."""

    def work() -> int:
        page, lines = collect(parse("collect", arguments).options.out)
        for line in lines:
            print(f"specsync: {line}", file=sys.stderr)
        print(f"report: {page}")
        return 0

    return ended(work)
