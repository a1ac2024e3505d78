"""Execute the notebooks in order, keep what is finished (``stamps``), and build the report.

An interrupted run repeats only the notebook that it was in. A notebook's outputs are what it wrote with
``specsync_lib.files``; what else lies in a run's folders is nobody's to remove.

A named run has its own folders, ``runs/NAME`` under both. What another run on this machine finished with the same key
is copied from there, so that two runs that differ in a threshold hear the recording once.
"""

import signal

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() takes over: no traceback out of an import
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # run_all.sh held it back until here

import errno
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from specsync_lib import streams
from specsync_lib.door.cells import cells_hash, notebook_parameters
from specsync_lib.door.execution import NotebookError, asked_to_stop, execute, one_line
from specsync_lib.door.inputs import Inputs, measured_of, resolved, seen_and_heard, seen_of
from specsync_lib.door.parameters import PARAMETERS, Options, Value, parse_arguments
from specsync_lib.door.project import Project
from specsync_lib.door.stamps import (
    Finished,
    adopt,
    content_hash,
    data_files,
    drop_departed,
    file_hash,
    folder_pairs,
    forget,
    read_stamp,
    source_files,
    still_valid,
    stored_name,
    tree_hash,
    write_stamp,
)
from specsync_lib.errors import INTERRUPTED_EXIT_CODE, InputError, advice
from specsync_lib.files import LEFT_BEHIND, made_meanwhile, write_json
from specsync_lib.locks import exclusive

# A cell's time: for what does not depend on the recording, and for each second of it. (The longest cell takes about 5 s
# a second on two cores.)
CELL_TIMEOUT_S = {"smoke": 600, "default": 1800, "full": 4 * 3600}
CELL_TIMEOUT_PER_S = 120
# Folders of the door's own in a run's folder, and in its plots.
OWN_OF_RUN = ("stamps", "unfinished", "executed", "summary")
OWN_OF_PLOTS = ("report",)
FOLDERS = "folders of your own in SPECSYNC_RUN_DIR and SPECSYNC_PLOTS_DIR"
NO_FOLDER = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def sweep(project: Project) -> None:
    """Remove the hidden beginnings of files that a killed run left; of other runs, where none is at work.

    A person's own folders below these are not looked into: what is hidden there may be another checkout's at work.
    """
    ours = [project.run.glob(".*"), *((project.run / name).rglob(".*") for name in OWN_OF_RUN)]
    ours += [project.plots.glob(".*"), *((project.plots / name).rglob(".*") for name in OWN_OF_PLOTS)]
    for path in (path for found in ours for path in found):
        if LEFT_BEHIND.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
    for other in project.runs():
        if not project.name and other.name:
            with suppress(InputError), at_work(other):
                sweep(other)


def make_folders(project: Project) -> None:
    """Make a run's two folders, or find them, before anything is computed.

    Raises
    ------
    InputError: something else lies there, or they hold the checkout's own files.
    OSError: they can not be made or written to.
    """
    nameless = project.nameless()
    for variable, folder, top in (
        ("SPECSYNC_RUN_DIR", project.run, nameless.run),
        ("SPECSYNC_PLOTS_DIR", project.plots, nameless.plots),
    ):
        try:
            if any(top.exists() and top.samefile(own) for own in (project.root, project.root / "data") if own.exists()):
                raise InputError(f"{variable}: {top} holds the checkout's own files; name a folder of its own")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in NO_FOLDER:
                raise
            why = error.strerror if error.errno != errno.EEXIST else "something else lies there"
            raise InputError(f"{folder}: is no folder for a run ({why}); name another in {variable}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def at_work(project: Project) -> AbstractContextManager[None]:
    """Hold a run's folders; another run of that name is refused meanwhile, those of other names are not."""
    return exclusive(project.run / "run.lock", "a run" if not project.name else f"a run named {project.name}")


def run_notebooks(project: Project, options: Options, inputs: Inputs) -> Iterator[tuple[str, Finished]]:
    """Execute what is not finished; yields each notebook's name and stamp as it is done.

    Raises
    ------
    InputError, NotebookError: see ``execute``.
    """
    notebooks = project.ordered_notebooks()
    if not notebooks:
        raise InputError(f"{project.notebooks}: no notebooks named 0*.ipynb here; is the checkout complete?")
    parameters = {notebook: notebook_parameters(notebook, options.values) for notebook in notebooks}
    shared = {
        "sources": tree_hash(source_files(project.root), project.root),
        "data": tree_hash(data_files(project), project.root),
        "dependencies": file_hash(project.root / "pyproject.toml"),
        "python": sys.version,
        "assets": inputs.assets,
    }
    upstream: list[str] = []
    for position, notebook in enumerate(notebooks, start=1):
        name = notebook.stem
        facts = {"cells": cells_hash(notebook), "parameters": parameters[notebook], "upstream": upstream}
        if "audio" in parameters[notebook]:
            facts["recording"] = inputs.recording
        if inputs.row and "row" in parameters[notebook]:
            facts["row"] = dict(inputs.row)
        key = content_hash(shared | facts)
        finished = read_stamp(project, name)
        title = f"[{position}/{len(notebooks)}] {name}"
        if not options.fresh and still_valid(finished, key, project):
            finished.resumed = True
            print(f"{title}: unchanged since it ran, kept", flush=True)
        else:
            forget(project, name)
            finished = None
            for other in [] if options.fresh else [one for one in project.runs() if one.name != project.name]:
                if finished := adopt(other, project, name, key):
                    print(f"{title}: the same as in {other.title}, copied", flush=True)
                    break
            if finished is None:
                finished = run_one(notebook, parameters[notebook], project, key, title, inputs)
        upstream = [*upstream, key]
        yield name, finished


def is_output(path: Path, project: Project) -> bool:
    """Whether a file that a notebook made lies in its run's folders, and not in the door's own or another run's."""
    others = {project.run: ("stamps", "unfinished", "executed", "runs"), project.plots: ("report", "runs")}
    for folder, _ in folder_pairs(project, project):
        if path.is_relative_to(folder):
            return path.relative_to(folder).parts[0] not in others[folder]
    return False


def run_one(
    notebook: Path, parameters: Mapping[str, Value], project: Project, key: str, title: str, inputs: Inputs
) -> Finished:
    """Execute one notebook and stamp it.

    Raises
    ------
    InputError, NotebookError: see ``execute``; an input is not what it was when the run began.
    """
    start = time.perf_counter()
    timeout_s = CELL_TIMEOUT_S[parameters.get("profile", PARAMETERS["profile"].default)]
    timeout_s += CELL_TIMEOUT_PER_S * float(inputs.seconds)
    with made_meanwhile() as made:
        peak_rss_gib = execute(notebook, parameters, project, timeout_s, title)
    wall_s = time.perf_counter() - start
    for one in inputs.seen:
        one.require_unchanged()
    kept = sorted(path for path in made if path.is_file() and is_output(path, project))
    outputs = {stored_name(path, project): file_hash(path) for path in (*kept, project.executed(notebook.stem))}
    return write_stamp(project, notebook.stem, Finished(key, outputs, round(wall_s, 3), round(peak_rss_gib, 3)))


def record_cost(project: Project, finished: Mapping[str, Finished], options: Options, recording: str) -> None:
    """Wall time and peak memory of the notebooks, each as of when it ran, into the summary and a JSON."""
    from specsync_lib import provenance, summary

    wall_s = sum(one.wall_s for one in finished.values())
    peak_rss_gib = max(one.peak_rss_gib for one in finished.values())
    path = project.run / "benchmark.json"
    content = {
        "label": "measured",
        "what": "the notebooks' run: wall time, and peak resident memory of all its processes together",
        "profile": options.values["profile"],
        "parameters": options.values,
        "recording": recording,
        "wall_s": round(wall_s, 1),
        "peak_rss_gib": round(peak_rss_gib, 3),
        "notebooks": {name: {"wall_s": one.wall_s, "peak_rss_gib": one.peak_rss_gib} for name, one in finished.items()},
        "machine": provenance.machine(),
    }
    keys = {name: one.key for name, one in finished.items()}  # by which others know whether this is what lies there now
    write_json(path, content | {"keys": keys})
    if options.benchmark:
        write_json(project.root / "data" / "measurements" / "cpu_report.json", content)
    source = {"label": "measured", "source": path, "n": len(finished), "notebook": "run"}
    source["directory"] = project.run / "summary"
    summary.record("report.wall_s", wall_s, "s", **source)
    summary.record("report.peak_rss_gib", peak_rss_gib, "GiB", **source)


@contextmanager
def parts_named(plots: Path) -> Iterator[None]:
    """Name the videos that a stopped or failed block leaves unfinished: each plays up to its last committed frame."""
    try:
        yield
    except (KeyboardInterrupt, NotebookError):
        for part in sorted(plots.glob("*.part.mp4")):
            print(f"\nspecsync: {part} plays up to its last committed frame", file=sys.stderr)
        raise


def run(options: Options, nameless: Project) -> None:
    """The main job after the check of its arguments."""
    from specsync_lib import assets
    from specsync_lib.door import report
    from specsync_lib.speech import corpus

    for note in options.notes:
        print(f"specsync: {note}", file=sys.stderr)
    # refused before anything is fetched or forgotten
    recording = seen_and_heard(options) if options.values["audio"] else None
    options = resolved(options)
    project = nameless.named(options.values["name"])
    make_folders(project)
    with at_work(project), parts_named(project.plots):
        sweep(project)
        assets.fetch()
        sound, seconds = recording or seen_and_heard(options)
        of_row = seen_of(options.row)
        digests = dict(zip(options.row.paths(), (one.digest for one in of_row), strict=True))
        spoken = f"human speech {corpus.default_is_human()}"
        inputs = Inputs(sound.digest, spoken, seconds, digests | measured_of(options.row), (sound, *of_row))
        write_json(project.run / "row.json", {"row": options.values["row"], "digests": digests})
        drop_departed(project)
        finished = dict(run_notebooks(project, options, inputs))
        record_cost(project, finished, options, sound.digest)
        with exclusive(nameless.run / "report.lock", "a report", wait=True):  # it shows every run of the recording
            index = report.build_all(project)
    print(f"report: {index}")
    video = project.plots / "lipsync_720p30.mp4"
    if video.exists():
        print(f"video:  {video}")


def terminated(signal_number: int, frame: object) -> None:
    """Ctrl-C, SIGTERM, and a terminal that closes stop a run."""
    asked_to_stop.set()
    raise KeyboardInterrupt


def tell_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """What could not be raised, but for a stop that is heeded elsewhere."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def main(arguments: Sequence[str]) -> int:
    """Check, run, and turn what went wrong into one line and an exit code."""
    asked_to_stop.clear()
    sys.unraisablehook = tell_unraisable
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell leaves it to what runs behind it
            signal.signal(number, terminated)
    try:
        run(parse_arguments(arguments), Project.here())
    except InputError as error:
        print(f"specsync: {one_line(str(error))}", file=sys.stderr)
        return InputError.EXIT_CODE
    except NotebookError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"specsync: {one_line(str(error))}; {advice(error, FOLDERS)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nspecsync: interrupted; run again to go on from the unfinished notebook", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    return 0


def leave(code: int) -> NoReturn:
    """End the process.

    After an interruption a notebook's thread may still be at work. Sockets and streams that are tidied up under it
    abort the process; all that had to be tidied up has been, so it ends at once.
    """
    if code != INTERRUPTED_EXIT_CODE:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    streams.settle()
    leave(main(sys.argv[1:]))
