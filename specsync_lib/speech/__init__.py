"""Sound in: samples, log-mel, words, and the truth that a transcript gives.

In: a file that PyAV reads. Out: samples float32 [n] at 16 kHz in [-1, 1]; log-mel float32 [mel_frames, 80], one row per
10 ms; words with times in seconds; the aligned plan, one viseme per frame of 1/30 s.
Start with ``audio.load_audio``, ``level.at_level`` (before anything that listens), ``log_mel.StreamingLogMel``,
``whisper_base.transcribe``, ``words.spoken`` (what a transcript may say) and ``alignment.truth`` (what of it is said,
when, or why that cannot be told).
"""
