"""``python -m specsync_lib.jobs JOB ...``: what run_all.sh starts. Ctrl-C is no traceback while a job's imports run."""

import signal
import sys
from importlib import import_module

from specsync_lib import streams

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `ending.ended` takes over
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # run_all.sh held it back until here
    streams.settle()
    job, *arguments = sys.argv[1:]
    sys.exit(import_module(f"specsync_lib.jobs.{job}").main(arguments))
