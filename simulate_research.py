"""The source report's entry point: simulate both pipelines and draw what comes out. Everything here is simulated.

    python3 simulate_research.py [--out FOLDER] [--chunks N] [--seed N]

Writes PNG and CSV to ``plots/simulated`` of this checkout unless ``--out`` names another folder. The figures that rest
on measurements are notebook 05's (``plots/latency_comparison.png``).
"""

import sys

from specsync_lib.figures.simulated import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
