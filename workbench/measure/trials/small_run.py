"""A small project for the runner: two notebooks that decode, draft and stream a second of speech into a 720p video.

    python -m workbench.measure.trials.small_run ROOT [arguments of the runner]

What is heavy is imported by the notebooks alone, as in the runner itself.
"""

import signal

if __name__ == "__main__":  # as in the runner
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

import sys
from pathlib import Path

from specsync_lib.door import runner
from specsync_lib.door.project import Project

NOTEBOOKS = {
    "01_hear": ("audio = ''\nstart_s = 0.0\nduration_s = 0.0", "small_run.hear(audio, start_s, duration_s)"),
    "02_talk": ("seed = 0", "small_run.talk(seed)"),
}


def hear(audio: str, start_s: float, duration_s: float) -> None:
    """The excerpt, and a number for the summary."""
    from specsync_lib import summary
    from specsync_lib.files import write_json
    from specsync_lib.paths import RUN_DIR
    from specsync_lib.speech.audio import write_flac
    from specsync_lib.speech.excerpt import load_excerpt

    recording = load_excerpt(audio, start_s=start_s, duration_s=duration_s)
    write_flac(RUN_DIR / "speech.flac", recording.samples)
    write_json(RUN_DIR / "heard.json", {"seconds": float(recording.duration)})
    facts = {"label": "measured", "source": RUN_DIR / "heard.json", "n": 1}
    summary.record("heard.seconds", float(recording.duration), "s", **facts)


def talk(seed: int) -> None:
    """Its draft, and the pipeline's threads over it into a growing video."""
    import pandas as pd

    from specsync_lib.draft.front import front_plan, load_draft_front
    from specsync_lib.face.video import GrowingVideo
    from specsync_lib.files import atomic_path
    from specsync_lib.paths import PLOTS_DIR, RUN_DIR
    from specsync_lib.pipeline.clock import RealClock
    from specsync_lib.pipeline.run import Pipeline
    from specsync_lib.pipeline.sound import pieces
    from specsync_lib.pipeline.stages import Policy
    from specsync_lib.pipeline.synthetic import StageTimes, SyntheticTarget, synthetic_stages
    from specsync_lib.speech.audio import load_audio

    samples = load_audio(RUN_DIR / "speech.flac").samples
    with atomic_path(RUN_DIR / "draft.csv") as path:
        pd.DataFrame(front_plan(samples, load_draft_front()).probabilities).to_csv(path, index=False)
    times = StageTimes(verify_s=0.05, step_s=0.02, render_s=0.02)
    target, wrong = SyntheticTarget(seed), lambda index: (3,) if index % 2 else ()
    stages = synthetic_stages(RealClock(), times, target=target, rejected=wrong, size_px=(720, 1280))
    video, rows = GrowingVideo(PLOTS_DIR / "talk.mp4"), []
    for commit in Pipeline(pieces(samples, pace="fast"), stages, Policy(late="rollback")).commits():
        for frame in commit.frames:
            video.push(frame)
        rows += [(commit.index, token) for token in commit.tokens]
    video.finish(samples)
    with atomic_path(RUN_DIR / "plan.csv") as path:
        pd.DataFrame(rows, columns=["chunk", "token"]).to_csv(path, index=False)


def project_at(root: Path) -> Project:
    """The project that lies there, or will."""
    return Project(root, root / "notebooks", root / "data" / "run", root / "plots")


def make(root: Path) -> Project:
    """A new one."""
    import nbformat

    project = project_at(root)
    for folder in (project.notebooks, project.run, project.plots, root / "specsync_lib" / "door", root / "kernels"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").write_text("[project]\n")
    for name, (parameters, source) in NOTEBOOKS.items():
        cells = [
            nbformat.v4.new_markdown_cell(f"# {name}"),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(f"from workbench.measure.trials import small_run\n\n{source}"),
        ]
        for number, cell in enumerate(cells):
            cell.id = f"cell-{number}"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), project.notebooks / f"{name}.ipynb")
    return project


def main(root: str, *arguments: str) -> int:
    """The runner on this project."""
    project = project_at(Path(root))
    Project.here = classmethod(lambda cls: project)
    return runner.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
