"""Tables and one page from a sweep's results: acceptance and coverage, by speaker and language, the worst recordings.

    ./run_all.sh collect --out results

Intervals draw whole speakers where the corpus names at least two, else whole recordings. Written beside the results,
and nowhere else: ``recordings.csv``, ``groups.csv``, ``acceptance.csv`` with its figure, ``report.html``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from specsync_lib import rows, streams
from specsync_lib.errors import InputError
from specsync_lib.figures import style
from specsync_lib.figures.acceptance import draw_acceptance
from specsync_lib.files import atomic_path, write_text
from specsync_lib.jobs.arguments import parse
from specsync_lib.jobs.sweep import RESULTS, SWEEP_FILE
from specsync_lib.measures.acceptance import acceptance_table
from specsync_lib.measures.intervals import bootstrap_by_group
from specsync_lib.pipeline.system import DEFAULT_THRESHOLD

WORST = 20
SHARES = {"stands": "draft stands", "draft_right": "draft right", "judge_right": "judge right"}
COLUMNS = ["id", "speaker", "language", "split", "audio", "seconds", "frames", "chunks", "passes", *SHARES, "wall_s",
           "why_no_truth", "error"]  # fmt: skip
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
    """What a folder is a sweep of, and its results, ordered by id.

    Raises
    ------
    InputError : it holds no sweep, no result yet, or one that is damaged.
    """
    try:
        about = json.loads((out / SWEEP_FILE).read_text(encoding="utf-8"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / RESULTS).glob("[!.]*.json"))]
        found.sort(key=lambda one: one["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--out: {out} holds no sweep that can be read ({error}); run ./run_all.sh sweep") from error
    if not any(one["frames"] for one in found):
        raise InputError(f"--out: {out} holds no result yet; run ./run_all.sh sweep")
    return about, found


def recordings_table(found: Sequence[dict]) -> pd.DataFrame:
    """COLUMNS, a row a recording; shares of its frames, empty where there is no truth."""
    table = pd.DataFrame(found)
    for name in SHARES:
        table[name] = [np.mean(values) if isinstance(values, list) and values else np.nan for values in table[name]]
    return table[COLUMNS]


def frames_table(found: Sequence[dict]) -> pd.DataFrame:
    """A row a frame: id, speaker, language, confidence and SHARES (NaN without truth)."""
    parts = []
    for one in found:
        if one["frames"]:
            absent = [np.nan] * one["frames"]
            shares = {name: one[name] if one[name] is not None else absent for name in SHARES}
            facts = {name: one[name] for name in ("id", "speaker", "language")}
            parts.append(pd.DataFrame({**facts, "confidence": one["confidence"], **shares}))
    return pd.concat(parts, ignore_index=True)


def drawn_unit(frames: pd.DataFrame) -> str:
    """What the bootstrap draws: speakers, where there are two of them at least and every recording has one."""
    named = frames["speaker"].ne("").all() and len(frames["speaker"].unique()) > 1
    return "speaker" if named else "id"


def groups_table(frames: pd.DataFrame) -> pd.DataFrame:
    """SHARES with intervals: of all, of every language and of every speaker."""
    found = []
    for kind in ("all", "language", "speaker"):
        for name, part in frames.assign(all="all").groupby(kind, sort=True):
            unit = drawn_unit(part)
            line = {"kind": kind, "name": name, "recordings": part["id"].nunique(), "frames": len(part)}
            for share in SHARES:
                known = part[part[share].notna()]
                if len(known):
                    score = bootstrap_by_group(
                        known[share].to_numpy(), known[unit].to_numpy(), rng=np.random.default_rng(0)
                    )
                    line |= {share: score.value, f"{share}_low": score.low, f"{share}_high": score.high}
            found.append(line)
    ends = [f"{share}{end}" for share in SHARES for end in ("", "_low", "_high")]
    return pd.DataFrame(found).reindex(columns=["kind", "name", "recordings", "frames", *ends]).round(5)


def collect(out: Path) -> Path:
    """Write the tables and the page; returns the page."""
    about, found = read_results(out)
    row, frames = rows.read(about["row"], present=False), frames_table(found)
    unit, recordings, groups = drawn_unit(frames), recordings_table(found), groups_table(frames)
    for name, table in (("recordings", recordings.round(5)), ("groups", groups)):
        with atomic_path(out / f"{name}.csv") as path:
            table.to_csv(path, index=False)
    table = acceptance_table(
        frames["confidence"].to_numpy(), frames["stands"].to_numpy(), frames[unit].to_numpy(), np.arange(101) / 100,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    (label,) = {one["label"] for one in found}
    style.use_style()
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9, 5))
    draw_acceptance(table, DEFAULT_THRESHOLD, ax, judge="the judge", confidence="the draft's confidence:", label=label)
    style.save_figure(fig, "acceptance", table, out)
    plt.close(fig)
    read = recordings[recordings["frames"] > 0]
    facts = [
        f"differs from the default row in: {', '.join(row.differences()) or 'nothing'}",
        *(f"sha256 of {key}: {digest}" for key, digest in about["digests"].items()),
        f"{len(read)} recordings, {read['seconds'].sum() / 3600:.2f} h, {len(frames)} frames, "
        f"{len(recordings) - len(read)} that could not be read",
    ]
    page = out / "report.html"
    write_text(page, PAGE.render(
        row=row, facts=facts, label=label, drawn={"speaker": "whole speakers", "id": "whole recordings"}[unit],
        groups=jinja2.utils.markupsafe.Markup(groups.to_html(index=False, na_rep="", border=0)),
        worst=read.nsmallest(WORST, "stands").to_dict("records"),
        failed=recordings[recordings["frames"] == 0].to_dict("records"),
    ))  # fmt: skip
    return page


def main(arguments: Sequence[str]) -> int:
    """Collect, and say where the page lies."""
    try:
        page = collect(Path(parse("collect", arguments).options.out))
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    streams.settle()
    sys.exit(main(sys.argv[1:]))
