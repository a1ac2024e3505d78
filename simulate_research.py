"""The source report's entry point: simulate both pipelines and draw what comes out. Everything here is simulated.

    python3 simulate_research.py [--out FOLDER] [--chunks N] [--seed N]

Writes PNG and CSV to ``plots/simulated`` of this checkout unless ``--out`` names another folder. The figures that rest
on measurements are notebook 05's (``plots/latency_comparison.png``). Any Python may start it: the work is done by that
of ``.venv``, which ``./run_all.sh`` makes; without one, by the one that started it.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
OWN = os.path.join(HERE, ".venv")
NEEDED = (3, 11)
HANDED = "SPECSYNC_HANDED_OVER"


def hand_over():
    """Go on in .venv's Python, where there is one and this is another."""
    python = os.path.join(OWN, "bin", "python")
    done = os.environ.pop(HANDED, "") or os.path.realpath(sys.prefix) == os.path.realpath(OWN)
    if not done and os.access(python, os.X_OK):
        os.environ[HANDED] = os.environ["PYTHONSAFEPATH"] = "1"  # once; and not the folder where a person stands
        os.execv(python, [python, os.path.join(HERE, "simulate_research.py")] + sys.argv[1:])


def main():
    """Simulate, or say what is missing here."""
    try:
        hand_over()
        if sys.version_info[:2] < NEEDED:
            raise ImportError("Python %d.%d or newer" % NEEDED)
        sys.path.append(HERE)
        from specsync_lib import streams
        from specsync_lib.figures.simulated import main as simulate
    except (ImportError, OSError) as error:
        sys.stderr.write(
            "simulate_research: this Python cannot run it (%s); run ./run_all.sh once, which makes .venv\n" % error
        )
        return 2
    streams.settle()
    return simulate(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
