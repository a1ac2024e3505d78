"""What run_all.sh starts beside the report, as a module of its own: the door never imports it.

In: a row (`rows.read`) and what a job's command line says. Out: a table, or files under a folder of the user's choice.
``live``: a recording or a microphone at the pace of speech. ``doctor`` says whether a row can run, ``sweep`` takes a
corpus through it, ``collect`` makes tables and a page of that. ``arguments`` is their strict command line, ``ending``
turns what stops them into one line.
"""
