"""The pipeline: chunks (12 frames, or 8 or 4) through draft, judge and generator, serial or speculative.

In: pieces of sound with their times, and ``stages.Stages``. Out: ``stages.Commit`` chunk by chunk, in order, once; an
``outcome.PipelineReport`` with trace and log, times in seconds. ``conductor`` holds the rules without threads or clock,
``simulate`` runs them in virtual time on measured stage times.
Start with ``system.run`` (a recording, whole), ``run.run_speculative``, ``serial.run_serial``, ``models.load_models``.
"""
