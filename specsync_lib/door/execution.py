"""Execute one notebook in a kernel of its own: memory, progress, an interruption, and what went wrong in one line."""

import errno
import itertools
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from specsync_lib.door.parameters import Value
from specsync_lib.door.project import Project
from specsync_lib.door.stamps import stored_name
from specsync_lib.errors import InputError

HEARTBEAT_S = 60
SAMPLING_S = 0.25
# A kernel binds the ports that were free when it was asked for: beside others it may come too late.
KERNEL_STARTS = 3
PORT_TAKEN = os.strerror(errno.EADDRINUSE)
asked_to_stop = threading.Event()  # set by the runner's signals


class NotebookError(RuntimeError):
    """A notebook that failed: one line with the notebook, the cell, the exception and where the traceback lies."""


class PortTakenError(NotebookError):
    """Another program took a port that was free for the notebook's kernel; nothing of it has run."""


def stop_if_asked() -> None:
    """Python drops what is raised while it tidies an object up: then the signal counts here.

    Raises
    ------
    KeyboardInterrupt: the run was asked to stop.
    """
    if asked_to_stop.is_set():
        raise KeyboardInterrupt


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
