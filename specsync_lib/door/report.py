"""The report: an opening page, a page for each executed notebook, the merged summary. Nothing needs a network."""

import fnmatch
import html
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
from jupyter_core.paths import ENV_JUPYTER_PATH
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from specsync_lib import files, rows, summary
from specsync_lib.claims import CLAIMED_THRESHOLD
from specsync_lib.door import compare
from specsync_lib.door import opening as opening_page
from specsync_lib.door.compare import POSTER_NAME, VIDEO_NAME
from specsync_lib.door.origins import Origin, origin
from specsync_lib.door.project import Project
from specsync_lib.door.words import (
    CAPTIONS,
    CLAIMS,
    DECODERS,
    LATENCY_READINGS,
    PROFILE_NOTES,
    READINGS,
    SETUP_NAMES,
)
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.paths import NOTEBOOKS_DIR, PLOTS_DIR, RUN_DIR
from specsync_lib.provenance import package_version, versions
from specsync_lib.values import on_one_line

TEMPLATES = Path(__file__).with_name("templates")
ACCEPTANCE_TABLE_NAME = "acceptance_efficiency.csv"
ACCEPTANCE_COLUMNS = [f"{name}{end}" for name in ("acceptance", "coverage") for end in ("", "_low", "_high")]
SIGNIFICANT_DIGITS = 3
REASONER = "the reasoner, a language model, over all held-out prompts"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PROGRESS_BAR = "%|"  # in the text form of tqdm's widgets
MARKED_BYTES = 2**12  # of a page: its head's first lines, where the mark stands
WIDGET_NOTE = (
    '<p class="not-interactive">A control lives here in JupyterLab (./run_all.sh lab); '
    '<a href="index.html#recording">the report\'s opening page</a> has one that works without a kernel.</p>'
)

Entry = Mapping[str, Any]
Summary = Mapping[str, Entry]


def display_value(entry: Entry) -> str:
    """A number as read, with its unit; a word as it is."""
    if entry["unit"] == summary.WORD_UNIT:
        return entry["value"]
    unit = {"fraction": "%", "ratio": "", "1": ""}.get(entry["unit"], entry["unit"])
    return f"{display_number(entry['value'], entry['unit'])} {unit}".rstrip()


def display_number(value: float, unit: str) -> str:
    """A number of that unit as read, without the unit: fractions in per cent, else three significant digits."""
    if unit == "fraction":
        return f"{100 * value:.1f}"
    magnitude = 0 if value == 0 else math.floor(math.log10(abs(value)))
    text = (
        f"{value:,}" if isinstance(value, int) else f"{value:,.{min(max(SIGNIFICANT_DIGITS - 1 - magnitude, 0), 6)}f}"
    )
    return text.rstrip("0").rstrip(".") if "." in text else text


def display_interval(entry: Entry) -> str:
    """The interval of a number, without its unit: that stands before it."""
    return " to ".join(display_number(entry[end], entry["unit"]) for end in ("low", "high"))


def reading(key: str) -> str:
    """A summary key in words."""
    family, _, rest = key.partition(".")
    if family == "latency" and "." in rest:
        setup, what = rest.split(".", 1)
        for name, words in LATENCY_READINGS.items():
            if what == name or what.startswith(f"{name}_"):
                region = what.removeprefix(name).strip("_").replace("_", ", ")
                return ", ".join(part for part in (SETUP_NAMES.get(setup, setup), region, words) if part)
    return READINGS.get(key, key)


def claim_rows(numbers: Summary, no_truth: str = "", unmeasured: str = "") -> list[dict[str, Any]]:
    """The claims with every recorded number that bears on them.

    ``here`` are this run's on this machine, ``elsewhere`` those of committed files by machine and date; ``missing``
    says what is not built, or why it is withheld: ``no_truth`` says why there is no truth to compare with;
    ``unmeasured`` is what a row of other models says instead of the default one's numbers.
    """
    found = []
    for claim in CLAIMS:
        keys = dict.fromkeys(key for pattern in claim.keys for key in fnmatch.filter(numbers, pattern))
        readings: dict[Origin | None, list] = {}
        for key in keys:
            readings.setdefault(origin(numbers[key]["source"]), []).append((key, reading(key), numbers[key]))
        here = readings.pop(None, [])
        awaited = [what for pattern, what in claim.awaits.items() if not fnmatch.filter(numbers, pattern)]
        missing = unmeasured or f"not built yet: {', '.join(awaited)}" if awaited else ""
        if claim.needs_truth and no_truth and not here:
            missing = f"withheld: {no_truth}"
        found.append({"claim": claim, "here": here, "elsewhere": sorted(readings.items()), "missing": missing})
    return found


def cost_facts(run_dir: Path) -> list[tuple[str, str]]:
    """The run's profile, time and memory, as its benchmark tells."""
    path = run_dir / "benchmark.json"
    if not path.exists():
        return []
    cost = json.loads(path.read_text(encoding="utf-8"))
    minutes, seconds = divmod(round(cost["wall_s"]), 60)
    rule = [("asked for", compare.chosen(cost["parameters"]))] if "parameters" in cost else []
    return [
        *rule,
        ("profile", PROFILE_NOTES[cost["profile"]]),
        ("notebooks ran for", f"{minutes} min {seconds:02} s, at most {cost['peak_rss_gib']:.1f} GiB of memory"),
    ]


def promise_facts(run_dir: Path) -> list[tuple[str, str]]:
    """What the run's rule and policy promise, chunks that nobody verified among it, and what went wrong on the way."""
    made = opening_page.run_facts(run_dir)
    notes = [("went wrong on the way", "; ".join(made["notes"]))] if made.get("notes") else []
    return [("guarantee", made["guarantee"]), *notes] if "guarantee" in made else notes


def decoder_sentence(run_dir: Path) -> str:
    """What the video's faces were decoded by, once a run has made one."""
    row = opening_page.run_facts(run_dir).get("models", {}).get("decoder")
    return f"Its faces are decoded by {DECODERS[row]} (decoder={row})." if row else ""


def recording_facts(run_dir: Path) -> dict[str, Any]:
    """The report's first sentence (whose voice this is) and what is known of the recording and the run."""
    path = run_dir / "input.json"
    if not path.exists():
        sentence = "No recording has been read yet."
        return {"human": False, "sentence": sentence, "facts": [("recording", "none yet")], "no_truth": ""}
    facts = json.loads(path.read_text(encoding="utf-8"))
    name = facts["name"]
    if not facts["is_default"]:
        sentence = f"Input: your recording {name}."
    elif facts["human"]:
        sentence = f"Input: {name}, a real human recording from the held-out part of the corpus."
    else:
        sentence = (
            f"Input: the shipped synthetic clip {name} REPLACED the human recording, because the human speech corpus "
            "could not be fetched here (it comes through apt)."
        )
    words = [("words", f"“{facts['transcript']}”"), ("words from", facts["transcript_source"])]
    part = ("excerpt", f"from {facts['start_s']:g} s, {facts['duration_s']:.3f} s long")
    return {
        "human": facts["human"] or not facts["is_default"],
        "sentence": sentence,
        "facts": [
            ("recording", name),
            *([part] if facts["is_excerpt"] else []),
            *language_facts(facts),
            *(words if facts["transcript"] else []),
            ("source", facts["source"]),
            *cost_facts(run_dir),
            *promise_facts(run_dir),
        ],
        "no_truth": facts["why_no_truth"],
    }


def row_of(run_dir: Path) -> tuple[rows.Row, list[tuple[str, str]]]:
    """The row that a run took, and what is known of it: name, what differs from the default one, what judges and in
    which version, what its files are and which commit a hub's revision is."""
    path = run_dir / "row.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"row": rows.DEFAULT, "digests": {}}
    row = rows.read(known["row"], present=False)
    engine = opening_page.run_facts(run_dir).get("models", {}).get("engine", "")
    facts = [("row", row.name)]
    facts += [("differs in", ", ".join(row.differences()))] if row.differences() else []
    facts += [("judge runs", engine)] if engine else []
    packages = ("specsync", "transformers", "torch")
    facts += [("versions", ", ".join(f"{name} {package_version(name)}" for name in packages))]
    facts += [(f"sha256 of {key}", digest[:16]) for key, digest in known["digests"].items()]
    for name, part in (("judge", row.judge), ("video", row.video)):
        own = part.source not in (rows.SMOLLM2, rows.WAN_MINI, rows.WAN_MINI_SHAPE)
        if own and not Path(part.source).is_absolute():
            facts.append((f"revision of {name}", hub_commit(part)))
    return row, facts


def hub_commit(part: rows.Judge | rows.Video) -> str:
    """A hub revision with the commit that it is here, where it has been fetched."""
    import huggingface_hub

    for name in ("config.json", "model_index.json"):
        with suppress(ValueError):  # a source that is no hub's id
            found = huggingface_hub.try_to_load_from_cache(part.source, name, revision=part.revision)
            if isinstance(found, str):
                return f"{part.revision}, commit {Path(found).parent.name}"
    return part.revision


def language_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is spoken, what that means for the models, and whether there is a truth."""
    found = []
    if facts["language"]:
        source = "as given" if facts["language_given"] else f"Whisper's probability {facts['probability']:.2f}"
        learnt = "" if facts["language"] == "en" else "; draft and judge learnt English"
        found.append(("language", f"{facts['language']}, {source}{learnt}"))
    elif not facts["has_speech"]:
        found.append(("language", "no speech is heard"))
    if not facts["has_truth"]:
        found.append(("truth", f"none: {facts['why_no_truth']}"))
    return found


def makers(run_dir: Path) -> dict[str, str]:
    """The notebook that made each file, by the file's name, as the stamps of the run tell."""
    stamps = sorted((run_dir / "stamps").glob("*.json"))
    outputs = {stamp.stem: json.loads(stamp.read_text(encoding="utf-8"))["outputs"] for stamp in stamps}
    return {Path(output).name: notebook for notebook, names in outputs.items() for output in names}


def figures(run_dir: Path, plots_dir: Path) -> list[dict[str, str]]:
    """Every figure under ``plots/`` with its caption, its table and its notebook, in the notebooks' order."""
    made_by = makers(run_dir)
    found = []
    for path in sorted(plots_dir.glob("*.png"), key=lambda path: (made_by.get(path.name, "~"), path.name)):
        title, caption = CAPTIONS.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
        table = f"{path.stem}.csv" if path.with_suffix(".csv").exists() else ""
        notebook = made_by.get(path.name, "")
        found.append({"image": path.name, "title": title, "caption": caption, "table": table, "notebook": notebook})
    return found


def acceptance_points(plots_dir: Path) -> tuple[dict[str, list[float | None]], str] | None:
    """The acceptance table by column for the slider, None for "no frame", and in words what is accepted over whose
    confidence: the one that a gate's threshold meets, where the table has it. None when there is no table."""
    path = plots_dir / ACCEPTANCE_TABLE_NAME
    if not path.exists():
        return None
    table = pd.read_csv(path)
    if not {"threshold", *ACCEPTANCE_COLUMNS} <= set(table.columns):
        return None
    met = {f"recalibrated_{name}" for name in ACCEPTANCE_COLUMNS} <= set(table.columns)
    prefix = "recalibrated_" * met
    lenient = f"{prefix}within_one_frame" in table
    read = [
        f"{prefix}{name.replace('acceptance', 'within_one_frame') if lenient else name}" for name in ACCEPTANCE_COLUMNS
    ]
    rounded = table[["threshold", *read]].astype(float).round(5)
    rounded.columns = ["threshold", *ACCEPTANCE_COLUMNS]
    columns = {
        name: [value if math.isfinite(value) else None for value in column.tolist()] for name, column in rounded.items()
    }
    frame = "within one frame" if lenient else "in the same frame"
    whose = "the recalibrated confidence" if met else "the draft's own confidence"
    return columns, f"{frame}, over {whose}"


class _MathMLRenderer(IPythonRenderer):
    """Markdown whose formulas are MathML, which browsers draw themselves."""

    def block_math(self, body: str) -> str:
        return latex2mathml.converter.convert(body, display="block")

    def inline_math(self, body: str) -> str:
        return latex2mathml.converter.convert(body)

    def latex_environment(self, name: str, body: str) -> str:
        return latex2mathml.converter.convert(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")


class OfflineExporter(HTMLExporter):
    """nbconvert's page without its scripts from content networks."""

    def __init__(self, **options: Any) -> None:
        own = [str(Path(folder, "nbconvert", "templates")) for folder in self.get_prefix_root_dirs()]
        super().__init__(
            template_name="offline", extra_template_basedirs=[str(TEMPLATES)], template_data_paths=own, **options
        )

    def get_prefix_root_dirs(self) -> list[str]:
        """Where nbconvert's templates lie: in this environment alone, whatever a user's own folders hold."""
        return ENV_JUPYTER_PATH

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", self.markdown_with_mathml

    @staticmethod
    def markdown_with_mathml(source: str) -> str:
        """Markdown to HTML, formulas included."""
        return MarkdownWithMath(renderer=_MathMLRenderer(escape=False, exclude_anchor_links=True)).render(source)


def opening(notebook: NotebookNode, name: str) -> tuple[str, str]:
    """A notebook's title and the first paragraph under it."""
    lines = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "").splitlines()
    title = next((line.lstrip("# ") for line in lines if line.startswith("#")), name)
    paragraphs = "\n".join(line for line in lines if not line.startswith("#")).strip().split("\n\n")
    question = " ".join(paragraphs[0].replace("*", "").replace("`", "").split())
    return title, question.removeprefix("Question. ")


def without_widgets(notebook: NotebookNode) -> NotebookNode:
    """The notebook without progress bars and with a note in each slider's place: a page has no kernel to move it."""
    notebook = deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET_VIEW not in data:
                kept.append(output)
            elif PROGRESS_BAR not in data.get("text/plain", ""):
                output.data = NotebookNode({"text/html": WIDGET_NOTE})
                kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept
    return notebook


def notebook_titles(executed: Path) -> list[dict[str, str]]:
    """The page, title and question of each executed notebook."""
    found = []
    for path in sorted(executed.glob("*.ipynb")):
        title, question = opening(nbformat.read(path, as_version=4), path.stem)
        found.append({"page": f"{path.stem}.html", "title": title, "question": question})
    return found


def write_notebook_pages(executed: Path, plots_dir: Path) -> None:
    """Write each executed notebook as one page of the report under ``plots_dir``, and remove the pages that this made
    of notebooks which are no longer there."""
    exporter = OfflineExporter()
    folder = plots_dir / "report"
    # Notebooks name files from notebooks/, in this run's folder or in that of the run that they were copied from.
    here = re.escape(os.path.relpath(plots_dir, NOTEBOOKS_DIR))
    files_of_a_run = re.compile(rf'"(?:{here}|\.\./plots)/(?:runs/[\w-]+/)?')
    kept = set()
    for path in sorted(executed.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, _ = opening(notebook, path.stem)
        facts = {"metadata": {"name": title}, "mark": page_mark(path.stem)}
        body, _ = exporter.from_notebook_node(without_widgets(notebook), facts)
        page = folder / f"{path.stem}.html"
        write_text(page, files_of_a_run.sub('"../', body))
        kept.add(page)
    for page in set(folder.glob("*.html")) - kept:
        if is_own(page):
            page.unlink()


def page_mark(stem: str) -> str:
    """What a notebook's page bears in its head: it is the report's own, under its own name."""
    return f'content="SpecSync, notebook {html.escape(stem)}"'


def is_own(page: Path) -> bool:
    """Whether `write_notebook_pages` made this page, and under this name."""
    if not page.is_file():
        return False
    with page.open("rb") as handle:
        return page_mark(page.stem).encode() in handle.read(MARKED_BYTES)


def write_poster(video: Path, path: Path, at_s: float | None = None) -> str:
    """A frame of the video as the picture that a player shows before it plays; returns its file's name.

    The frame that is shown at ``at_s``, the last one where the video ends before; None: one about a third into it.
    """
    with av.open(video) as container:
        stream = container.streams.video[0]
        begins = stream.duration // 3 if at_s is None else round(at_s / stream.time_base)
        container.seek(min(begins, stream.duration - 1), stream=stream)
        for frame in container.decode(stream):
            if at_s is None or frame.pts >= begins:
                break
    with atomic_path(path) as temporary:
        frame.to_image().save(temporary, quality=85)
    return path.name


def variants(run_dir: Path, plots_dir: Path) -> list[dict[str, str]]:
    """`opening.variants`, each with a poster of its own first spoken frame."""
    found = opening_page.variants(run_dir, plots_dir)
    for one in found:
        video = plots_dir / one["video"]
        one["poster"] = write_poster(video, plots_dir / "report" / f"{video.stem}.jpg", one["spoken_s"])
    return found


def build(
    run_dir: Path = RUN_DIR, plots_dir: Path = PLOTS_DIR, runs: Sequence[compare.Run] = (), left_out: Sequence[str] = ()
) -> Path:
    """Write the report from what the notebooks left; a part that is missing says so. Returns the opening page.

    ``runs`` are those to show side by side, this one first; ``left_out`` says in a line each which are not, and why.
    """
    (plots_dir / "report").mkdir(parents=True, exist_ok=True)
    write_notebook_pages(run_dir / "executed", plots_dir)
    index = plots_dir / "report" / "index.html"
    write_text(index, opening_text(run_dir, plots_dir, runs, left_out))
    return index


def build_all(project: Project) -> Path:
    """Write a run's report, and the opening page of every other run of its recording anew, so that all show all.

    Another run of which something can not be read costs this one nothing: it is left out, and its page stays as it is.
    Returns this run's opening page.
    """
    recording, runs, left_out = compare.heard(project), [], []
    for other in project.runs():
        if other.name == project.name:
            continue
        try:
            if recording and compare.heard(other) == recording:
                compare.check_whole(other)
                run = compare.read(other)
                opening_text(other.run, other.plots, [run, run])  # what can not be shown raises here
                runs.append(run)
        except Exception as error:  # whatever comes of files that anyone may have changed
            words = f"something of it can not be read ({type(error).__name__}: {error})"
            why = str(error) if isinstance(error, InputError) else words
            left_out.append(f"{other.title} is left out of the comparison: {on_one_line(why)}; run it again")
            print(f"specsync: {left_out[-1]}", file=sys.stderr)
    runs = [compare.read(project), *runs] if runs else []
    index = build(project.run, project.plots, runs, left_out)
    for run in runs[1:]:
        page = run.project.plots / "report" / "index.html"
        if page.exists():
            first = [run, *(one for one in runs if one is not run)]
            write_text(page, opening_text(run.project.run, run.project.plots, first, left_out))
    return index


def opening_text(run_dir: Path, plots_dir: Path, runs: Sequence[compare.Run] = (), left_out: Sequence[str] = ()) -> str:
    """The opening page; writes what it shows that no notebook made: the merged summary and the videos' posters."""
    folder, video = plots_dir / "report", plots_dir / VIDEO_NAME
    row, row_facts = row_of(run_dir)
    made = opening_page.run_facts(run_dir)
    numbers = row.held(summary.merged(run_dir / "summary"))
    files.write_json(folder / "summary.json", numbers)
    source = recording_facts(run_dir)
    side_by_side = compare.columns(runs, folder)
    points, confidence = acceptance_points(plots_dir) or (None, "")
    thresholds = points["threshold"] if points else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"value": display_value, "interval": display_interval, "reading": reading}
    return environment.get_template("index.html.j2").render(
        source=source,
        decoded=decoder_sentence(run_dir),
        video=f"../{VIDEO_NAME}" if video.exists() else "",
        poster=write_poster(video, folder / POSTER_NAME) if video.exists() else "",
        variants=variants(run_dir, plots_dir),
        verdicts=opening_page.verdicts(plots_dir),
        recording=opening_page.recording_points(run_dir),
        headline=opening_page.headline(numbers, made.get("rule", "")),
        row=row_facts,
        own_row=bool(row.differences()),
        claims=claim_rows(numbers, source["no_truth"], rows.NOT_MEASURED if row.differences() else ""),
        runs=side_by_side,
        left_out=left_out,
        run_keys=sorted({key for column in side_by_side for key in column.numbers}),
        shown_seconds=compare.SHOWN_SECONDS,
        strip=(compare.STRIP_WIDTH, compare.STRIP_HEIGHT, compare.BAND_HEIGHT),
        summary=numbers,
        origins={key: origin(entry["source"]) for key, entry in numbers.items()},
        acceptance=points,
        acceptance_confidence=confidence,
        acceptance_judge=REASONER if "reasoner.accuracy" in numbers else "the forced alignment of the known words",
        start_row=min(range(len(thresholds)), key=lambda row: abs(thresholds[row] - CLAIMED_THRESHOLD), default=0),
        figures=figures(run_dir, plots_dir),
        notebooks=notebook_titles(run_dir / "executed"),
        versions=versions().to_numpy().tolist(),
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
