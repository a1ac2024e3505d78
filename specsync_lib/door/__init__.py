"""The door: run_all.sh's side. Installs, checks parameters, runs the notebooks, builds the report; nobody imports it.

In: a command line. Out: ``.venv``, executed notebooks under ``data/run``, figures and ``report/index.html`` under
``plots``; exit code 2 with one line where the input can not be used. ``install`` and ``parameters`` need the standard
library alone. Start with ``parameters.parse_arguments``, ``runner.run``, ``report.build``.
"""
