"""SpecSync: speculative audio-driven lip-sync, measured."""
