"""How the draft comes to hear everyone, as curves: ``data/models/draft_front/curves.json`` from fits trained for it.

Every point is a fit of one block, and the points of a curve differ in one thing alone: how much sound past a frame's
centre they hear, how many minutes, or how many voices they learn from. Trained, each on a GPU in a minute or two, by

    front="python -m workbench.train.front --speech DIR --out FITS --no-human --no-teacher --rows 64"
    $front --variants look_000_ms,look_020_ms,look_040_ms,look_060_ms,look_100_ms --name look --steps 3000
    $front --variants curve@minutes_15 --name minutes_15 --minutes 15 --steps 1500      and so on for 60, 240, 1000
    $front --variants curve@voices_4 --name voices_4 --voices 4 --steps 1500            and so on for 12, 48

``python -m workbench.train.front_curves FITS --speakers DIR --calibrate DIR`` scores them on the sets of
:mod:`front_card`, joins what their reports say of held-out voices, and writes the file.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from specsync_lib import units
from specsync_lib.draft.front import MODEL_DIR, in_full
from specsync_lib.draft.front_weights import load_front, whisper_tensors
from specsync_lib.draft.plan import CausalNormaliser
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.provenance import machine
from specsync_lib.speech.log_mel import log_mel
from workbench.asked import add_corpus
from workbench.train.front import VARIANTS, Fit
from workbench.train.front_card import Recording, score, speakers, temperature_of, trained_speaker

PATH = MODEL_DIR / "curves.json"
POINT = re.compile(r"(?:curve@)?(?P<curve>look|minutes|voices)_(?P<at>\d+)(?:_ms)?")
CURVES = {"look": "look_ahead", "minutes": "minutes", "voices": "voices"}
ALIKE = ("steps", "rows", "seed", "human", "teachers")  # in all points of a curve
KEPT = ("accuracy", "accuracy_low", "accuracy_high", "coverage_at_085", "right_at_085")


Points = dict[str, dict[int, tuple[str, dict]]]  # by curve and place on it: a fit's name, its training's report


def points(folder: Path) -> Points:
    """The fits of a folder that are points: by curve and place on it, a fit's name and the report of its training.

    Raises
    ------
    InputError: a report is damaged, a curve has no point, or its points differ in more than where they stand.
    """
    found: Points = {curve: {} for curve in CURVES.values()}
    for path in sorted(folder.glob("report_*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            for name in report["held_voices"]:
                if point := POINT.fullmatch(name):
                    found[CURVES[point["curve"]]][int(point["at"])] = (name, report)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no report of a training ({error!r}); train it again") from error
    for curve, at in found.items():
        if not at:
            raise InputError(f"{folder}: no fit of the curve over {curve}; see python -m workbench.train.front_curves")
        for key in ALIKE:
            values = {json.dumps(report.get(key)) for _, report in at.values()}
            if len(values) > 1 or "null" in values:
                raise InputError(f"curve over {curve}: {key} is {', '.join(sorted(values))}; train all points alike")
    return found


@torch.inference_mode()
def logits_of_fit(fit: Fit, recordings: Sequence[Recording], chunk: int = units.FRAMES_PER_CHUNK) -> list:
    """As ``front_card.logits_of``, by the trainer's view, which knows other look-aheads than the product's."""
    found = []
    for one in recordings:
        mel = torch.from_numpy(CausalNormaliser().push(log_mel(one.samples)))
        whole = -(-len(one.truth) // chunk) * chunk
        needed = units.centre_mel_frame(whole - 1) + fit.variant.look_ahead + 1
        logits, opening = fit(in_full(mel, needed, mel[-1:])[None], chunk, 0, 0, whole)
        frames = slice(len(one.truth))
        found.append((logits[0, frames].numpy(), opening[0, frames].sigmoid().numpy()))
    return found


def curves(
    folder: Path,
    at_points: Points,
    sets: dict[str, list[Recording]],
    calibrating: Sequence[Sequence[Recording]],
) -> dict:
    """The file's curves.

    Parameters
    ----------
    at_points : of :func:`points`.
    sets : what is scored, by name.
    calibrating : groups of recordings that the temperature of each fit is chosen on.
    """
    found = {}
    variants = {name: VARIANTS[name.split("@")[0]] for at in at_points.values() for name, _ in at.values()}
    base = whisper_tensors(max(variant.blocks for variant in variants.values()))
    for curve, at in at_points.items():
        reports = [report for _, report in at.values()]
        found[curve] = {"steps": reports[0]["steps"], "rows": reports[0]["rows"]}
        if curve == "look_ahead":
            found[curve]["minutes"] = reports[0]["minutes"]
        for place, (name, report) in sorted(at.items()):
            weights = load_front(folder / f"{name.replace('@', '_')}.safetensors", base)
            fit = Fit(weights, variants[name]).eval()
            temperature = temperature_of([(logits_of_fit(fit, group), group) for group in calibrating])
            point = {} if curve == "look_ahead" else {"minutes": report["minutes"]}
            for title, recordings in sets.items():
                scored = score(logits_of_fit(fit, recordings), recordings, temperature)
                point[title] = {key: scored[key] for key in KEPT}
            found[curve][str(place)] = point | {"held_voices": report["held_voices"][name]}
            print(curve, place, json.dumps(point), flush=True)
    return found


def card(found: dict, reports: Sequence[dict], sets: dict[str, list[Recording]]) -> dict:
    """The whole of curves.json."""
    human = any(report["human"] for report in reports)
    taught = any(report["teachers"] for report in reports)
    return {
        "label": "measured",
        "gpu": reports[0]["gpu"],
        "date": time.strftime("%Y-%m-%d"),
        "what": f"one block, synthetic voices {'and human prompts' if human else 'alone'}, truth "
        f"{'and a teacher' if taught else 'alone'}; real_speakers: {len(sets['real_speakers'])} utterances, never "
        f"trained on; trained_speaker: {'heard' if human else 'unheard'}; held_voices: share of right frames in speech "
        "and in silence",
        "command": "python -m workbench.train.front_curves FITS --speakers DIR --calibrate DIR",
        "machine": machine(),
        **found,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the curves' fits and write the file."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.front_curves", description=main.__doc__)
    parser.add_argument("fits", type=Path, help="the folder that workbench.train.front wrote fits and reports to")
    parser.add_argument("--speakers", type=Path, action="append", required=True, help="real speakers, scored")
    parser.add_argument("--calibrate", type=Path, action="append", default=[], help="speakers for the temperature")
    parser.add_argument("--out", type=Path, default=PATH)
    add_corpus(parser)
    options = parser.parse_args(arguments)
    try:
        at_points = points(options.fits)
        reports = [report for at in at_points.values() for _, report in at.values()]
        sets = {
            "real_speakers": [one for folder in options.speakers for one in speakers(folder)],
            "trained_speaker": trained_speaker("test", options.corpus),
        }
        calibrating = [trained_speaker("validation", options.corpus), *map(speakers, options.calibrate)]
        write_json(options.out, card(curves(options.fits, at_points, sets, calibrating), reports, sets))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
