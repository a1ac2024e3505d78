"""Results of many recordings as they are ready: in this process, or over Ray's workers.

Ray (the extra ``sweep``) brings cores and GPUs of this machine, or of a cluster whose machines see the recordings at
the same paths. A worker loads the row's models once; one that dies is started again and its recording with it. Results
come back to the one process that writes them.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.jobs.result import NoVerdict, attempt
from specsync_lib.pipeline.models import Listeners, load_listeners
from specsync_lib.speech.manifest import Utterance

TRIES = 3  # of a recording whose worker dies, before it is left for the next start

Results = Iterator[tuple[Utterance, dict | NoVerdict]]


def in_threads(missing: Sequence[Utterance], models: Listeners, workers: int) -> Results:
    """So many recordings at a time; what is under way when the reader ends is let go."""
    waiting, under_way = list(reversed(missing)), {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < workers:
                    one = waiting.pop()
                    under_way[pool.submit(attempt, one, models)] = one
                ready: set[Future] = wait(under_way, return_when=FIRST_COMPLETED).done
                yield from ((under_way.pop(future), future.result()) for future in ready)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Worker:
    """What each of Ray's workers is: the row's models, loaded at its first recording."""

    def __init__(self, row: str, device: str, threads: int) -> None:
        self._row, self._device, self._threads = row, device, threads
        self._models: Listeners | None = None

    def judge(self, one: Utterance) -> dict | NoVerdict | InputError:
        """A recording's result; an InputError is of the row's models, which no recording can mend."""
        import torch

        try:
            if self._models is None:
                torch.set_num_threads(self._threads)
                self._models = load_listeners(rows.read(self._row), self._device)
            return attempt(one, self._models)
        except InputError as error:
            return error


def over_ray(missing: Sequence[Utterance], row: rows.Row, where: str, cpus: int, gpus: float) -> Results:
    """As many workers as there are cores (or GPUs) for, at a served judge no more than it takes requests.

    where : local, auto, or a cluster's address; cpus, gpus : of each worker.

    Raises
    ------
    InputError : Ray is not installed or not there, no worker finds room, or the row's models cannot be loaded.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run contacts nobody but the row's own endpoint
    try:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError
    except ImportError as error:
        raise InputError("--ray: Ray is not installed; .venv/bin/pip install -e '.[sweep]'") from error
    ended_by = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=where, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:  # a time-out at its start has no type of its own
        what = "Ray does not start here" if where == "local" else f"no cluster at {where}"
        raise InputError(f"--ray: {what} ({' '.join(str(error).split())[:120]})") from error
    signal.signal(signal.SIGTERM, ended_by)  # Ray's own aborts, and says so with a stack
    try:
        has = ray.cluster_resources()
        room = min(int(has.get("CPU", 0) // cpus), int(has.get("GPU", 0) // gpus) if gpus else len(missing))
        served = row.judge.kind != rows.LOCAL
        count = min(room, len(missing), row.judge.in_flight if served else room)
        if not count:
            raise InputError(
                f"--ray: no room for a worker: the cluster has {has.get('CPU', 0):.0f} cores, {has.get('GPU', 0):.0f} "
                "GPUs; ask for less with --cpus-each and --gpus-each"
            )
        made = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=TRIES)(Worker)
        device = "cuda" if gpus else "cpu"
        idle = [made.remote(row.text(), device, cpus) for _ in range(count)]
        waiting, under_way = list(reversed(missing)), {}
        while waiting or under_way:
            while waiting and idle:
                worker, one = idle.pop(), waiting.pop()
                under_way[worker.judge.remote(one)] = one, worker
            (ready,), _ = ray.wait(list(under_way))
            one, worker = under_way.pop(ready)
            idle.append(worker)
            try:
                result = ray.get(ready)
            except (RayActorError, OutOfMemoryError):
                result = NoVerdict(f"{one.id}: its worker died {TRIES + 1} times; is there memory for it?")
            if isinstance(result, InputError):
                raise result
            yield one, result
    finally:
        ray.shutdown()
