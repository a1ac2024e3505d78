"""The draft: sound to a sync plan with its confidence, and to drafted latents, through ``kernels.causal_front``.

In: log-mel [mel_frames, 80]. Out: ``DraftPlan`` (probabilities [frames, 15], confidence and openness [frames], each in
[0, 1]) and latents [16, slots, h, w] of a chunk. The judge's ears are the same with more blocks. The window network
that the front replaced (``plan.draft_plan``) and the probe on Whisper's encoder stay for comparison.
Start with ``front.load_draft_front``, ``front.front_plan``, ``front.FrontStream``, ``latents.FrontLatents``.
"""
