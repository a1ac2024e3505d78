"""The judge: a language model that scores a drafted chunk in one forward pass, and the rules by which a draft stands.

In: a draft's visemes (int [frames]) with its chunk's evidence. Out: ``ChunkVerdict``: visemes to commit, which drafts
stand, who decided each frame (``by``), the judge's ``rows`` [frames, 15], passes. ``rules`` decide (``RUN_RULES`` of a
run, ``CHUNK_RULES`` of its chunks), ``verify`` runs one chunk, ``mouth`` groups visemes, ``policy`` foresees,
``branches`` choose the plans of a pass. Start with ``verify.run_options``, ``verify.verify_chunk``, ``rules.decide``.
"""
