"""The report: an opening page, a page for each executed notebook, the merged summary. Nothing needs a network."""

import fnmatch
import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from specsync_lib import files, summary
from specsync_lib.files import atomic_path, write_text
from specsync_lib.paths import PLOTS_DIR, RUN_DIR
from specsync_lib.provenance import versions

TEMPLATES = Path(__file__).with_name("templates")
VIDEO_NAME = "lipsync_720p30.mp4"
POSTER_NAME = "poster.jpg"
ACCEPTANCE_TABLE_NAME = "acceptance_efficiency.csv"
ACCEPTANCE_COLUMNS = [f"{name}{end}" for name in ("acceptance", "coverage") for end in ("", "_low", "_high")]
SIGNIFICANT_DIGITS = 3
REASONER = "the reasoner, a language model, over all held-out prompts"
SLIDER_START = 0.85  # the source report's threshold
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PROGRESS_BAR = "%|"  # in the text form of tqdm's widgets
WIDGET_NOTE = (
    '<p class="not-interactive">A slider lives here in JupyterLab (./run_all.sh lab); '
    '<a href="index.html#slider">the report\'s opening page</a> has one that works without a kernel.</p>'
)

Entry = Mapping[str, Any]
Summary = Mapping[str, Entry]


@dataclass(frozen=True)
class Claim:
    """A claim of the source report, the summary keys (shell patterns) that bear on it, and those that must be there.

    ``awaits`` maps a pattern to what has to be built before its numbers exist.
    """

    question: str
    claimed: str
    keys: tuple[str, ...]
    awaits: Mapping[str, str]


# latency.SETUP.what or latency.SETUP.what_REGION, as notebook 05 records them
LATENCY_READINGS = {
    "serial_p50_ms": "serial, median",
    "speculative_p50_ms": "speculative, median",
    "speculative_p99_ms": "speculative, p99",
    "branched_p50_ms": "speculative, several plans a pass, median",
    "branched_p99_ms": "speculative, several plans a pass, p99",
    "lenient_p50_ms": "speculative, lenient judge, median",
    "lenient_p99_ms": "speculative, lenient judge, p99",
    "reduction": "saved by speculation",
    "delivery_jitter_p99_ms": "delivery jitter, p99",
}
SETUP_NAMES = {
    "h200x2": "two H200s",
    "h200x2_fp8": "two H200s, reasoner in FP8",
    "h200": "one H200",
    "cpu": "this suite's models on a CPU",
}
# others: notebook 05, the summary
HEADLINE_SETUPS = (("h200x2", "_384px"), ("h200x2_fp8", ""), ("h200", "_384px"), ("cpu", ""))

CLAIMS = (
    Claim(
        "Verifying in the background shortens the whole pipeline",
        "645 → 507 ms (−21 %)",
        (
            *(f"latency.{setup}.{name}{region}" for setup, region in HEADLINE_SETUPS for name in LATENCY_READINGS),
            "simulate.max_relative_error",
        ),
        {"latency.*": "the asynchronous pipeline"},
    ),
    Claim(
        "Most drafted frames are accepted at confidence 0.85",
        "88 %",
        ("draft.acceptance_*", "draft.coverage_*", "acceptance.*", "reasoner.*"),
        {"reasoner.*": "the language model as judge"},
    ),
    Claim(
        "The kernel costs next to nothing",
        "under 15 ms",
        ("kernel.*_us", "kernel.*_ms"),
        {"kernel.full720p_*": "the compiled kernel on a GPU"},
    ),
    Claim(
        "The mouth can be drafted from audio alone",
        "Whisper-distilled; no accuracy given",
        (
            "draft.accuracy*",
            "draft.teacher_*",
            "draft.energy_*",
            "draft.majority_*",
            "draft.ece",
            "features.rtf",
            "features.hop_latency_ms",
        ),
        {"draft.accuracy": "the trained draft"},
    ),
    Claim("The video is 720p at 30 fps, sound in step", "720p30", ("video.*",), {"video.*": "the video"}),
    Claim(
        "Lip-sync is near-perfect, with little jitter",
        "near-perfect; no number given",
        ("sync.*",),
        {"sync.jitter_ratio": "the generated video against truth (a smoke run measures none)"},
    ),
    Claim(
        "Audio envelopes project to Wan latents",
        "asserted, not measured",
        ("latent.*",),
        {"latent.*": "the trained latent projection"},
    ),
    Claim(
        "The kernel is tuned for sm_120 by Triton",
        "sm_120",
        ("kernel.sm120_*", "kernel.*_fraction", "kernel.speedup_*"),
        {"kernel.sm120_*": "the kernel compiled for sm_120"},
    ),
)

READINGS = {
    "report.wall_s": "notebooks, wall time",
    "report.peak_rss_gib": "notebooks, peak memory",
    "features.rtf": "features, real-time factor",
    "features.hop_latency_ms": "features, time per 10 ms hop",
    "features.hop_latency_p95_ms": "features, time per 10 ms hop, p95",
    "features.hop_latency_p99_ms": "features, time per 10 ms hop, p99",
    "draft.accuracy": "frame accuracy, held-out prompts",
    "draft.accuracy_unseen_speaker": "frame accuracy, unseen speaker",
    "draft.majority_accuracy": "always the commonest viseme",
    "draft.energy_accuracy": "energy threshold",
    "draft.ece": "calibration error",
    "draft.acceptance_at_085": "accepted at 0.85, truth as judge",
    "draft.coverage_at_085": "frames at or above 0.85",
    "video.frame_count_error": "frames missing or extra",
    "video.av_end_difference_ms": "sound against picture at the end",
    "video.beep_flash_offset_ms": "flash against beep",
    "acceptance.at_085": "accepted at 0.85 (±1 frame), language model as judge, recalibrated confidence",
    "acceptance.coverage_at_085": "frames at or above 0.85, recalibrated confidence",
    "acceptance.exact_greedy_at_085": "accepted at 0.85, exact rule",
    "acceptance.ece": "calibration error of the recalibrated confidence",
    "acceptance.by_draft_confidence_at_085": "accepted at 0.85 of the draft's own confidence (±1 frame)",
    "acceptance.by_draft_confidence_coverage_at_085": "frames at or above 0.85 of the draft's own confidence",
    "acceptance.bad_accept_bound": "accepted against truth: at most, 95 % bound",
    "reasoner.accuracy": "frame accuracy of the language model's own plan",
    "reasoner.accuracy_unseen_speaker": "the same, unseen speaker, a judge of synthetic voices",
    "reasoner.passes_ratio": "passes of token by token over its own, the probe's guess first",
    "reasoner.passes_ratio_several_plans": "passes of token by token over its own, several plans a pass",
    "reasoner.passes_ratio_from_draft": "passes of token by token over its own, from the draft",
    "slider.redraw_p95_ms": "the slider follows within, p95",
    "sync.lip_r": "lips, generated against truth's render: r",
    "sync.av_offset_ms": "lips, generated behind truth's render",
    "sync.lip_error_mm": "lips, error of their gap",
    "sync.jitter_ratio": "jitter of the lips, of truth's",
    "sync.silence_motion_ratio": "motion in silence, of truth's in speech",
    "sync.closure_rate": "p, b and m with lips shut",
    "sync.lip_class_accuracy": "frames whose lips show what truth names",
    "sync.border_flicker_grey": "flicker in the feathered edge",
    "latent.vae_psnr_db": "the VAE alone, new people: PSNR",
    "latent.vae_mouth_psnr_db": "the VAE alone, new people: PSNR of the mouth",
    "latent.claim_r": "lips drafted from sound, not denoised, against truth: r",
    "latent.claim_lag_ms": "the same, behind truth",
    "latent.energy_only_r": "from loudness alone: r",
    "latent.basis_ceiling_r": "truth's own coefficients on the basis: r, at best",
    "latent.shuffled_r": "another sentence's sound, the control: r",
    "simulate.max_relative_error": "simulation against every measured median, at most",
    "kernel.full720p_t8_median_us": "720p, 8 slots, median",
    "kernel.full720p_t8_bandwidth_fraction": "share of the memory bandwidth",
    "kernel.graph_p99_ms": "in a CUDA graph, p99",
    "kernel.sm120_max_shared_kib": "sm_120, shared memory per block (it has 99 KiB)",
    "kernel.speedup_vs_compile": "times as fast as torch.compile",
    "kernel.speedup_vs_eager": "times as fast as torch eager",
}

PROFILE_NOTES = {
    "smoke": "smoke: the smallest sizes, a check that everything runs and no measurement",
    "default": "default",
    "full": "full",
}

CAPTIONS = {
    "acceptance_efficiency": (
        "Acceptance and coverage",
        "Share of frames accepted, and share of frames kept, over the confidence threshold.",
    ),
    "acceptance_strip": ("One utterance, frame by frame", "What the draft said, and what the judge made of it."),
    "draft_accuracy": ("Accuracy of the draft", "Against rules that any draft must beat, on held-out prompts."),
    "draft_calibration": (
        "Calibration",
        "Whether a confidence of 0.85 is right 85 times in 100, and what is confused.",
    ),
    "contact_sheet": (
        "Faces beside their words",
        "The middle frame of each word: generated from the draft above, truth's render below.",
    ),
    "lip_aperture": (
        "The lips over time",
        "Gap between the lips in mm, read off the generated face and off truth's render; dotted: the draft's plan.",
    ),
    "step_counts": (
        "How many steps",
        "Error of the lips, PSNR of the mouth and a chunk's time: the kernel's draft as it is, and 1, 2, 4 steps.",
    ),
    "seams_and_repair": (
        "Seams and repair",
        "Jumps at chunk borders beside truth's own; what is left of a wrong draft, by when the plan was set right.",
    ),
    "latent_claim": (
        "The claim: sound straight into Wan's latents",
        "Lips drafted by the kernel and decoded without denoising, against truth, with ceiling, rival and control.",
    ),
    "referee": ("Who deserves to judge", "Draft, probe and language model against truth, trained and unseen speakers."),
    "acceptance_chunks": (
        "What is rejected",
        "Acceptance by viseme, and how many frames of a chunk stand before the first rejection.",
    ),
    "features": ("What is heard", "Waveform, log-mel, envelopes, words, encoder features and truth on one time axis."),
    "stream_latency": ("The stream's latency", "Time to compute one 10 ms hop of features, over all hops."),
    "draft_plan": (
        "The draft of this recording",
        "Probability of each viseme, confidence and openness, frame by frame.",
    ),
    "kernel_claim": ("The kernel against the claim", "Its time on a GPU beside the source report's 15 ms."),
    "kernel_latency": ("Kernel latency", "Cold cache, over slots and regions, against torch on the same buffers."),
    "kernel_roofline": ("Roofline", "Achieved bandwidth beside what a device copy of as many bytes reaches."),
    "kernel_versions": ("Version by version", "What each change to the kernel bought; the line is the byte floor."),
    "latency_comparison": ("Latency", "Where the time goes with and without background verification."),
    "latency_gantt": (
        "Who hides behind whom",
        "A live run with tiny models: the times mean nothing, the overlap does.",
    ),
    "late_verdicts": ("Late verdicts", "What a rejection that comes late costs, in latency and in wrong frames."),
    "live_delivery": ("At the pace of speech", "How long after its sound each chunk of a live stream is out."),
    "latency_chips": ("Other chips", "Both pipelines by roofline scaling; all simulated."),
}


def display_value(entry: Entry) -> str:
    """A number as read, with its unit."""
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


def claim_rows(numbers: Summary) -> list[dict[str, Any]]:
    """The claims with every recorded number that bears on them; ``missing`` names what is not built."""
    rows = []
    for claim in CLAIMS:
        keys = [key for pattern in claim.keys for key in fnmatch.filter(numbers, pattern)]
        readings = [(key, reading(key), numbers[key]) for key in dict.fromkeys(keys)]
        missing = [what for pattern, what in claim.awaits.items() if not fnmatch.filter(numbers, pattern)]
        rows.append({"claim": claim, "readings": readings, "missing": ", ".join(missing)})
    return rows


def cost_facts(run_dir: Path) -> list[tuple[str, str]]:
    """The run's profile, time and memory, as its benchmark tells."""
    path = run_dir / "benchmark.json"
    if not path.exists():
        return []
    cost = json.loads(path.read_text(encoding="utf-8"))
    minutes, seconds = divmod(round(cost["wall_s"]), 60)
    return [
        ("profile", PROFILE_NOTES[cost["profile"]]),
        ("notebooks ran for", f"{minutes} min {seconds:02} s, at most {cost['peak_rss_gib']:.1f} GiB of memory"),
    ]


def recording_facts(run_dir: Path) -> dict[str, Any]:
    """The report's first sentence (whose voice this is) and what is known of the recording and the run."""
    path = run_dir / "input.json"
    if not path.exists():
        return {"human": False, "sentence": "No recording has been read yet.", "facts": [("recording", "none yet")]}
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
    return {
        "human": facts["human"] or not facts["is_default"],
        "sentence": sentence,
        "facts": [
            ("recording", name),
            ("words", f"“{facts['transcript']}”"),
            ("words from", facts["transcript_source"]),
            ("source", facts["source"]),
            *cost_facts(run_dir),
        ],
    }


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


def acceptance_points(plots_dir: Path) -> dict[str, list[float | None]] | None:
    """The acceptance table by column for the slider, None for "no frame"; None when there is no table."""
    path = plots_dir / ACCEPTANCE_TABLE_NAME
    if not path.exists():
        return None
    table = pd.read_csv(path)
    if not {"threshold", *ACCEPTANCE_COLUMNS} <= set(table.columns):
        return None
    rounded = table[["threshold", *ACCEPTANCE_COLUMNS]].astype(float).round(5)
    return {
        name: [value if math.isfinite(value) else None for value in column.tolist()] for name, column in rounded.items()
    }


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
        super().__init__(template_name="offline", extra_template_basedirs=[str(TEMPLATES)], **options)

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


def notebook_pages(executed: Path, folder: Path) -> list[dict[str, str]]:
    """Write each executed notebook as one page; returns their names, titles and questions."""
    exporter = OfflineExporter()
    pages = []
    for path in sorted(executed.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, question = opening(notebook, path.stem)
        body, _ = exporter.from_notebook_node(without_widgets(notebook), {"metadata": {"name": title}})
        # Notebooks name files from notebooks/; the pages lie one level deeper.
        body = body.replace('"../plots/', '"../')
        page = folder / f"{path.stem}.html"
        write_text(page, body)
        pages.append({"page": page.name, "title": title, "question": question})
    return pages


def write_poster(video: Path, folder: Path) -> str:
    """A frame a third into the video, as the picture a player shows before it plays; returns its name."""
    with av.open(video) as container:
        stream = container.streams.video[0]
        container.seek(stream.duration // 3, stream=stream)
        picture = next(container.decode(stream)).to_image()
    with atomic_path(folder / POSTER_NAME) as temporary:
        picture.save(temporary, quality=85)
    return POSTER_NAME


def build(run_dir: Path = RUN_DIR, plots_dir: Path = PLOTS_DIR) -> Path:
    """Write the report from what the notebooks left; a part that is missing says so. Returns the opening page."""
    folder, video = plots_dir / "report", plots_dir / VIDEO_NAME
    folder.mkdir(parents=True, exist_ok=True)
    numbers = summary.merged(run_dir / "summary")
    files.write_json(folder / "summary.json", numbers)
    pages = notebook_pages(run_dir / "executed", folder)
    for page in set(folder.glob("*.html")) - {folder / page["page"] for page in pages}:
        page.unlink()
    points = acceptance_points(plots_dir)
    thresholds = points["threshold"] if points else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"value": display_value, "interval": display_interval}
    text = environment.get_template("index.html.j2").render(
        source=recording_facts(run_dir),
        video=f"../{VIDEO_NAME}" if video.exists() else "",
        poster=write_poster(video, folder) if video.exists() else "",
        claims=claim_rows(numbers),
        summary=numbers,
        acceptance=points,
        acceptance_judge=REASONER if "reasoner.accuracy" in numbers else "the forced alignment of the known words",
        start_row=min(range(len(thresholds)), key=lambda row: abs(thresholds[row] - SLIDER_START), default=0),
        figures=figures(run_dir, plots_dir),
        notebooks=pages,
        versions=versions().to_numpy().tolist(),
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    index = folder / "index.html"
    write_text(index, text)
    return index
