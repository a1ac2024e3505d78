"""The causal front: Whisper base's first layers as a stream with a cache. README.md has the derivation."""
