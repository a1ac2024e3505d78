"""What the campaign tries (``python -m workbench.measure.campaign``): a module a section.

Each has ``names(short)``, the cases in order, and ``attempt(name, folder)``, which tries one of them in an empty folder
and returns an ``outcome.Outcome``. An exception that escapes is a loss, like a process that dies or stands still.
"""
