"""Decoders: a stream of latent slots to frames, slot by slot, that can be taken back to an earlier place.

In: normalised latents [16, slots, h, w], any number of slots at a time. Out: uint8 frames [4 slots, 8 h, 8 w, 3].
``streams`` holds the protocol and its rows, ``networks`` the small convolutional ones (2-D, each block seeing its own
past frame), ``rows`` names and loads them, strictly checked. Start with ``rows.load_decoder``.
"""
