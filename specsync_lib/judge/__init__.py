"""The judge: a language model that scores a drafted chunk in one forward pass, and the rules by which a draft stands.

In: a draft's visemes (int [frames]) with the evidence of its chunk. Out: ``ChunkVerdict``: the visemes to commit, which
drafts stand, passes. ``rules`` decide, ``verify`` runs one chunk, ``branches`` choose the plans of a pass.
Start with ``loading.load_reasoner``, ``reasoner.ReasonerStream``, ``verify.verify_chunk``, ``rules.decide``.
"""
