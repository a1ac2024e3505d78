"""Execute the notebooks in order, keep what is finished, and build the report.

A notebook is finished for as long as its key (its own cells, the parameters it declares, the library, the committed
data, the recording, the assets and every earlier notebook) and the hashes of its outputs are those of its stamp. An
interrupted run therefore repeats only the notebook that it was in. Its outputs are what it wrote with
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
import hashlib
import itertools
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

from specsync_lib import streams
from specsync_lib.door.parameters import PARAMETERS, Options, Value, parse_arguments
from specsync_lib.door.project import Project
from specsync_lib.errors import INTERRUPTED_EXIT_CODE, InputError, advice
from specsync_lib.files import LEFT_BEHIND, atomic_path, made_meanwhile, write_json
from specsync_lib.locks import exclusive
from specsync_lib.paths import TINY_DECODER, display_path, expanded
from specsync_lib.rows import Row

# A cell's time: for what does not depend on the recording, and for each second of it. (The longest cell takes about 5 s
# a second on two cores.)
CELL_TIMEOUT_S = {"smoke": 600, "default": 1800, "full": 4 * 3600}
CELL_TIMEOUT_PER_S = 120
HEARTBEAT_S = 60
LARGEST_TRANSCRIPT_BYTES = 2**20
# Folders of the door's own in a run's folder, and in its plots.
OWN_OF_RUN = ("stamps", "unfinished", "executed", "summary")
OWN_OF_PLOTS = ("report",)
FOLDERS = "folders of your own in SPECSYNC_RUN_DIR and SPECSYNC_PLOTS_DIR"
NO_FOLDER = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
SAMPLING_S = 0.25
# A kernel binds the ports that were free when it was asked for: beside others it may come too late.
KERNEL_STARTS = 3
PORT_TAKEN = os.strerror(errno.EADDRINUSE)
APART = (Path("specsync_lib", "door"), Path("specsync_lib", "jobs"))  # no notebook's results depend on them
SOURCE_SUFFIXES = frozenset({".py", ".mplstyle"})
asked_to_stop = threading.Event()


class NotebookError(RuntimeError):
    """A notebook that failed: one line with the notebook, the cell, the exception and where the traceback lies."""


class PortTakenError(NotebookError):
    """Another program took a port that was free for the notebook's kernel; nothing of it has run."""


@dataclass
class Finished:
    """A notebook's stamp: what it was made from, what it made, and what it cost."""

    key: str
    outputs: dict[str, str]
    wall_s: float
    peak_rss_gib: float
    resumed: bool = field(default=False, compare=False)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_hash(content: object) -> str:
    """sha256 of plain data, independent of dictionary order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tree_hash(paths: Sequence[Path], root: Path) -> str:
    """One hash over files' names and bytes."""
    return content_hash({path.relative_to(root).as_posix(): file_hash(path) for path in sorted(paths)})


def source_files(root: Path) -> list[Path]:
    """The library and the kernels, without tests, benchmarks, the door and the jobs. (The workbench is no part of a
    run.)"""
    files = [path for folder in ("specsync_lib", "kernels") for path in (root / folder).rglob("*")]
    return [
        path
        for path in files
        if path.suffix in SOURCE_SUFFIXES
        and not path.name.startswith(("test_", "bench_", "conftest"))
        and not any(path.is_relative_to(root / folder) for folder in APART)
    ]


def data_files(project: Project) -> list[Path]:
    """The committed inputs: everything under data/ but what runs make, wherever they do, this door's own measurement of
    itself, and what was measured of other rows (folders of data/measurements)."""
    data, nameless = project.root / "data", project.nameless()
    measured = data / "measurements"
    made = (data / "run", *(folder for folder in (nameless.run, nameless.plots) if data in folder.parents))
    files = (path for path in data.rglob("*") if path.is_file() and path != measured / "cpu_report.json")
    return [
        path
        for path in files
        if not any(path.is_relative_to(folder) for folder in made)
        and not path.name.startswith(".")
        and not (path.is_relative_to(measured) and path.parent != measured)
    ]


def facts(path: Path) -> list[tuple[str, int, int, int]]:
    """What changes where a file, or one in a folder, is replaced or written to: size, time, inode; nothing is read."""
    found = []
    for one in sorted(path.rglob("*")) if os.path.isdir(path) else [path]:  # noqa: PTH112 - raises for no name
        with suppress(OSError):  # what is not there has no facts
            seen = one.stat()
            found.append((str(one), seen.st_size, seen.st_mtime_ns, seen.st_ino))
    return found


@dataclass(frozen=True)
class Seen:
    """An input as it was when the run began; ``read`` hashes it again."""

    path: Path
    digest: str
    facts: list[tuple[str, int, int, int]]
    read: Callable[[], str]

    def require_unchanged(self) -> None:
        """Check that it still is what the run's keys say.

        Raises
        ------
        InputError: it is another now, or gone.
        """
        if facts(self.path) == self.facts:
            return
        with suppress(OSError):
            if self.read() == self.digest:
                return
        raise InputError(
            f"{display_path(self.path)} changed while the run worked on it; run again with what is there now"
        )


def measured_of(row: Row) -> dict[str, str]:
    """A hash of what the workbench measured of a row of one's own; empty where it measured nothing."""
    folder = row.own_results()
    return {"measured": tree_hash([path for path in folder.iterdir() if path.is_file()], folder)} if folder else {}


def read_cells(notebook: Path) -> list:
    """A notebook's cells.

    Raises
    ------
    InputError: it can not be read.
    """
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4).cells
    except (ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise InputError(f"{notebook}: is no notebook ({one_line(str(error), 80)}); restore the file") from error


def declared_parameters(notebook: Path) -> dict[str, object]:
    """Names and default values in a notebook's ``parameters`` cell.

    Raises
    ------
    InputError: more or fewer than one such cell, or a line in it that is not ``name = literal``.
    """
    import ast

    cells = read_cells(notebook)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"{notebook.name}: has {len(tagged)} cells tagged parameters; it needs exactly one")
    values = {}
    for statement in ast.parse(tagged[0].source).body:
        try:
            (target,) = statement.targets
            values[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            line = ast.unparse(statement)
            raise InputError(f"{notebook.name}: {line!r} in the parameters cell is not name = literal") from error
    return values


def notebook_parameters(notebook: Path, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values that this notebook declares.

    Raises
    ------
    InputError: it declares a parameter that ``specsync_lib/door/parameters.py`` does not know.
    """
    declared = declared_parameters(notebook)
    if unknown := sorted(set(declared) - set(values)):
        raise InputError(f"{notebook.name}: declares {', '.join(unknown)}, unknown to specsync_lib/door/parameters.py")
    return {name: values[name] for name in declared}


def cells_hash(notebook: Path) -> str:
    """Hash of a notebook's cells without outputs, counts and metadata."""
    cells = read_cells(notebook)
    return content_hash([(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in cells])


def stored_name(path: Path, project: Project) -> str:
    """A path as stamps hold it: relative to the project."""
    return os.path.relpath(path, project.root)


def read_stamp(project: Project, name: str) -> Finished | None:
    """A notebook's stamp, None where it is absent, unreadable or holds anything else."""
    try:
        found = Finished(**json.loads(project.stamp(name).read_text(encoding="utf-8")))
        whole = isinstance(found.outputs, dict) and math.isfinite(found.wall_s) and math.isfinite(found.peak_rss_gib)
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return found if whole else None


def still_valid(finished: Finished | None, key: str, project: Project) -> bool:
    """Whether a stamp has this key and all its outputs are as they were."""
    if finished is None or finished.key != key:
        return False
    paths = {project.root / name: digest for name, digest in finished.outputs.items()}
    return all(path.is_file() and file_hash(path) == digest for path, digest in paths.items())


def forget(project: Project, name: str) -> None:
    """Remove a notebook's stamp, summary and unmodified outputs, so that nothing stale outlives its making."""
    finished = read_stamp(project, name)
    for output, digest in (finished.outputs if finished else {}).items():
        path = project.root / output
        if path.is_file() and file_hash(path) == digest:
            path.unlink()
    for path in (project.stamp(name), project.summary(name), project.executed(name), project.unfinished(name)):
        path.unlink(missing_ok=True)


def adopt(source: Project, project: Project, name: str, key: str) -> Finished | None:
    """Copy a notebook's outputs from another run that finished it with the same key; None where they went meanwhile."""
    finished = read_stamp(source, name)
    if not still_valid(finished, key, source):
        return None
    paths = {}
    for output, digest in finished.outputs.items():
        path = Path(os.path.normpath(source.root / output))  # a run's folders may lie outside the project
        old, new = next(pair for pair in folder_pairs(source, project) if path.is_relative_to(pair[0]))
        paths[path] = new / path.relative_to(old), digest
    try:
        for path, (target, digest) in paths.items():
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
                if file_hash(temporary) != digest:
                    raise FileNotFoundError(path)  # the other run is at work on it
                if path == source.summary(name):
                    moved = moved_sources(temporary, source, project)
                    temporary.write_text(json.dumps(moved, indent=2), encoding="utf-8")
    except FileNotFoundError:
        for target, _ in paths.values():
            target.unlink(missing_ok=True)
        return None
    outputs = {stored_name(target, project): file_hash(target) for target, _ in paths.values()}
    return write_stamp(project, name, Finished(key, outputs, finished.wall_s, finished.peak_rss_gib, resumed=True))


def folder_pairs(source: Project, project: Project) -> list[tuple[Path, Path]]:
    """The folders of a run and their places in another one; one that lies in the other comes first."""
    pairs = [(source.plots, project.plots), (source.run, project.run)]
    return sorted(pairs, key=lambda pair: len(pair[0].parts), reverse=True)


def moved_sources(path: Path, source: Project, project: Project) -> dict[str, dict[str, object]]:
    """The numbers of a summary file, their sources in the folders of the run that they are copied to."""
    folders = folder_pairs(source, project)
    moved = [(f"{stored_name(old, source)}/", f"{stored_name(new, project)}/") for old, new in folders]
    numbers = json.loads(path.read_text(encoding="utf-8"))
    for entry in numbers.values():
        old, new = next((pair for pair in moved if entry["source"].startswith(pair[0])), ("", ""))
        entry["source"] = new + entry["source"].removeprefix(old)
    return numbers


def write_stamp(project: Project, name: str, finished: Finished) -> Finished:
    """Keep a notebook's stamp."""
    write_json(project.stamp(name), {name: value for name, value in vars(finished).items() if name != "resumed"})
    return finished


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


def resident_gib() -> float:
    """Memory of this process and its descendants, shared pages counted for each."""
    import psutil

    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total / 2**30


def end_processes(processes: Sequence) -> None:
    """Terminate processes, then kill those that stay."""
    import psutil

    for process in processes:
        try:
            process.terminate()
        except psutil.Error:
            continue
    for process in psutil.wait_procs(processes, timeout=3)[1]:
        process.kill()


def watched(work: Callable[[], None], beat: Callable[[float], None] = lambda seconds: None) -> float:
    """Run ``work`` in a thread and return the peak of the resident memory in GiB; what it raises is raised here.

    ``beat`` is called with the seconds so far, many times a minute.

    The main thread stays free for Ctrl-C (nbclient would swallow it): then the processes that were started for
    ``work`` are ended and KeyboardInterrupt goes on.
    """
    import psutil

    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    before = set(psutil.Process().children(recursive=True))
    stop_if_asked()
    thread = threading.Thread(target=guarded, daemon=True)
    peak, start = 0.0, time.monotonic()
    thread.start()
    try:
        while thread.is_alive():
            stop_if_asked()
            peak = max(peak, resident_gib())
            beat(time.monotonic() - start)
            thread.join(SAMPLING_S)
    except KeyboardInterrupt:
        end_processes([child for child in psutil.Process().children(recursive=True) if child not in before])
        thread.join(10)
        raise
    if failures:
        raise failures[0]
    return peak


def one_line(text: str, limit: int = 400) -> str:
    """Text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


class Relay:
    """Shows the progress lines that a notebook prints (``progress.say``), and that it is alive where it prints none."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._unfinished = ""
        self._spoken_s = 0.0
        self._now_s = 0.0

    def write(self, text: str) -> None:
        """Take what a cell printed; papermill calls this."""
        from specsync_lib.progress import MARK

        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if line.startswith(MARK):
                self._show(line.removeprefix(MARK))

    def flush(self) -> None:
        """For papermill, which wants a file."""

    def beat(self, seconds: float) -> None:
        """The notebook has run for so long."""
        self._now_s = seconds
        if seconds - self._spoken_s >= HEARTBEAT_S:
            self._show(f"still at work, {seconds / 60:.0f} min so far")

    def _show(self, line: str) -> None:
        from tqdm import tqdm

        self._spoken_s = self._now_s
        tqdm.write(f"{self.title}: {line}", file=sys.stderr)


def execute(notebook: Path, parameters: Mapping[str, Value], project: Project, timeout_s: float, title: str) -> float:
    """Execute one notebook into ``run/executed``; returns the peak memory in GiB.

    Raises
    ------
    InputError: raised by a cell, with that cell's line.
    NotebookError: anything else that stopped it.
    """
    name = notebook.stem
    for path in (project.unfinished(name), project.executed(name)):
        path.parent.mkdir(parents=True, exist_ok=True)
    for start in itertools.count(1):
        with (
            tempfile.TemporaryDirectory(prefix="specsync-", ignore_cleanup_errors=True) as kernels,
            surroundings(name, project, Path(kernels)),
        ):
            try:
                return execute_in(Path(kernels), notebook, parameters, project, timeout_s, title)
            except PortTakenError:
                if start == KERNEL_STARTS:
                    raise


@contextmanager
def surroundings(name: str, project: Project, kernels: Path) -> Iterator[None]:
    """The environment of a notebook's kernel, which this process lends it."""
    environment = {
        # Agg inside, and every figure of a cell shown under it, as in JupyterLab.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "SPECSYNC_NOTEBOOK": name,
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, whatever the user's own folder holds
        "PYTHONSAFEPATH": "1",  # nothing in a kernel's folder shadows a module
        "PYTHONUTF8": "1",  # whatever the locale
        "SPECSYNC_RUN_DIR": str(project.run),
        "SPECSYNC_PLOTS_DIR": str(project.plots),
        "IPYTHONDIR": str(kernels / "ipython"),  # no start-up files or settings of the user's in our kernels
    }
    before = {variable: os.environ.get(variable) for variable in (*environment, "JUPYTER_PATH")}
    os.environ.update(environment)
    os.environ.pop("JUPYTER_PATH", None)
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def execute_in(
    kernels: Path, notebook: Path, parameters: Mapping[str, Value], project: Project, timeout_s: float, title: str
) -> float:
    """`execute`, with a folder for what its kernel needs while it lives."""
    import papermill
    import zmq
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would say is said below, in one line
    unfinished, executed = project.unfinished(notebook.stem), project.executed(notebook.stem)
    relay = Relay(title)
    encryption = "auto" if zmq.has("curve") else "disabled"
    kernel = {"transport_encryption": encryption, "connection_file": str(kernels / "kernel.json")}

    class KernelManager(AsyncKernelManager):
        def start_kernel(self, **options: object):
            return super().start_kernel(stderr=last_words, **options)

    def run() -> None:
        papermill.execute_notebook(
            notebook,
            unfinished,
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            cwd=project.notebooks,
            execution_timeout=math.ceil(timeout_s),
            config=Config(KernelManager=kernel),
            kernel_manager_class=KernelManager,
            extra_arguments=["--log-level=CRITICAL"],  # a kernel takes its own end for an interruption, and says so
            stdout_file=relay,
            progress_bar={"desc": title, "mininterval": 0.2 if sys.stderr.isatty() else 10},
        )

    where = f"the executed copy with the traceback is {stored_name(unfinished, project)}"
    try:
        with (kernels / "stderr.txt").open("wb") as last_words:
            peak_rss_gib = watched(run, relay.beat)
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(one_line(error.evalue)) from error
        raised = one_line(f"{error.ename}: {error.evalue}")
        raise NotebookError(f"{notebook.name}, cell In [{error.exec_count}]: {raised}; {where}") from error
    except CellTimeoutError as error:
        raise NotebookError(f"{notebook.name}: a cell ran longer than {timeout_s:g} s; {where}") from error
    except DeadKernelError as error:
        raise NotebookError(f"{notebook.name}: its process died (out of memory?); {where}") from error
    except (RuntimeError, zmq.ZMQError) as error:
        words = (kernels / "stderr.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        why = next((line for line in reversed(words) if line.strip()), str(error))
        kind = PortTakenError if PORT_TAKEN in why else NotebookError
        raise kind(f"{notebook.name}: its kernel does not come up ({one_line(why, 160)})") from error
    with unfinished.open("rb+") as handle:
        os.fsync(handle.fileno())
    unfinished.replace(executed)
    return peak_rss_gib


@dataclass(frozen=True)
class Inputs:
    """What lies outside the project and decides its results: hashes, and how long the recording is."""

    recording: str
    assets: str
    seconds: Fraction = Fraction(0)
    row: Mapping[str, str] = field(default_factory=dict)  # of the files that the row names, and of what it measured
    seen: Sequence[Seen] = ()  # must stay as they are while the run works


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


def drop_departed(project: Project) -> None:
    """Forget stamps and summaries of notebooks that are no longer there."""
    present = {notebook.stem for notebook in project.ordered_notebooks()}
    for stamp in (project.run / "stamps").glob("*.json"):
        if stamp.stem not in present:
            forget(project, stamp.stem)


def recording_of(options: Options) -> Path:
    """The recording's file.

    Raises
    ------
    InputError: it is an address, or lies in a home that is not there.
    """
    from specsync_lib.speech import corpus
    from specsync_lib.speech.audio import local_file

    return local_file(options.values["audio"] or corpus.default_recording().path)[0]


def heard(options: Options) -> tuple[str, Fraction]:
    """The recording's hash and its length in seconds; a warning about it is one line.

    Raises
    ------
    InputError: the recording can not be used, or the excerpt does not lie in it.
    """
    from specsync_lib.speech import corpus
    from specsync_lib.speech.excerpt import load_excerpt

    path = options.values["audio"] or corpus.default_recording().path
    recording = load_excerpt(path, **excerpt_of(options))
    if recording.warning:
        print(f"specsync: {recording.warning}", file=sys.stderr)
    return file_hash(recording_of(options)), recording.duration


def seen_and_heard(options: Options) -> tuple[Seen, Fraction]:
    """The recording as it is now, and its length in seconds; see ``heard``."""
    path = recording_of(options)
    before = facts(path)
    digest, seconds = heard(options)
    return Seen(path, digest, before, lambda: file_hash(path)), seconds


def seen_of(row: Row) -> list[Seen]:
    """The files and folders that a row names, as they are now."""
    before = {key: facts(path) for key, path in row.paths().items()}
    digests = row.digests()
    return [
        Seen(path, digests[key], before[key], lambda key=key: row.digests()[key]) for key, path in row.paths().items()
    ]


def excerpt_of(options: Options) -> dict[str, Value]:
    """What of the recording is taken: the options of ``load_excerpt``."""
    return {name: options.values[name] for name in ("track", "start_s", "duration_s", "max_seconds")}


def resolved(options: Options) -> Options:
    """The options with what this machine knows: paths become absolute, a transcript's file its text, auto a device.

    Raises
    ------
    InputError: the transcript's file can not be read, there is no such device, or no trained decoder.
    """
    from specsync_lib.devices import resolve
    from specsync_lib.speech.audio import local_file

    values = dict(options.values)
    if values["transcript_file"]:
        values["transcript"] = read_transcript(values["transcript_file"])
    if values["audio"]:
        values["audio"] = str(local_file(values["audio"])[0].absolute())
    values["device"] = resolve(values["device"])
    own = options.row.video.decoder_file != "auto"
    if values["decoder"] == "tiny" and not own and not TINY_DECODER.is_file():
        raise InputError(f"decoder=tiny: {display_path(TINY_DECODER)} is absent; train it, or choose decoder=wan")
    return replace(options, values=values)


def read_transcript(given: str) -> str:
    """The text of a transcript's file.

    Raises
    ------
    InputError: it can not be read, is no text in UTF-8, is empty or far too long.
    """
    name = repr(given)
    path = expanded(given)
    try:
        if not path.is_file():
            raise InputError(f"transcript_file {name} is not a file: give a text file with the words")
        if path.stat().st_size > LARGEST_TRANSCRIPT_BYTES:
            raise InputError(f"transcript_file {name} is larger than 1 MiB: give the words of this recording alone")
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"transcript_file {name} is not text in UTF-8: save it as such") from error
    except OSError as error:
        raise InputError(f"transcript_file {name} cannot be read ({error.strerror}): check the path") from error
    if not text or "\0" in text:
        raise InputError(f"transcript_file {name} holds no words: write what is said in it, or leave it out")
    return text


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


def stop_if_asked() -> None:
    """Python drops what is raised while it tidies an object up: then the signal counts here.

    Raises
    ------
    KeyboardInterrupt: the run was asked to stop.
    """
    if asked_to_stop.is_set():
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
