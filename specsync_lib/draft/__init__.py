"""The draft: sound to a sync plan with its confidence, and to drafted latents, through ``kernels.project_latents``.

In: log-mel [mel_frames, 80]. Out: ``DraftPlan`` (probabilities [frames, 15], confidence and openness [frames], each in
[0, 1]) and latents [16, slots, h, w] of a chunk. The probe on Whisper's encoder is the better, slower listener.
Start with ``plan.load_draft``, ``plan.draft_plan``, ``latents.LatentDrafter``, ``probe.teacher_plan``.
"""
