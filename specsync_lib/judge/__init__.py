"""The judge: a language model that scores a drafted chunk in one forward pass, and the rules by which a draft stands.

In: a draft's visemes (int [frames]) with the evidence of its chunk. Out: ``ChunkVerdict``: the visemes to commit, which
drafts stand, who decided each frame (``by``), the judge's distributions (``rows``), passes.

``rules`` decide: ``RUN_RULES`` are a run's, ``CHUNK_RULES`` maps them to a chunk's, ``PROMISES`` says what each gives,
``VerifyOptions`` holds one with what it needs. ``verify`` runs one chunk::

    options = run_options("gate", threshold=0.85)            # None under "draft" and "judge": nothing is verified
    verdict = verify_chunk(stream, draft, options, ChunkContext(recalibrated=confidence.of(draft, energy)))

``mouth`` groups visemes that look alike, ``policy`` says how likely a frame is to stand, ``branches`` choose the plans
of a pass. Start with ``loading.load_reasoner``, ``reasoner.ReasonerStream``, ``verify.verify_chunk``, ``rules.decide``.
"""
