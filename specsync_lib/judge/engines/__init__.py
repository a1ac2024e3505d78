"""Where the language model runs: in this process (``local``), or behind a server (``sglang``, ``vllm``, ``openai``).

In: the text that the judge has been told, as tokens, and what may follow it (``session.Branch``). Out: for every place
that is asked for the 15 letters' logits, up to a constant a row. Nothing but ``session.Session`` is known to the judge.
"""
