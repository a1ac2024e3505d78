"""SpecSync's library: rooms in the order sound travels, over a few ground files.

sound → speech → draft → judge → face → pipeline → measures → figures; a room imports the ground files, ``kernels`` and
rooms to its left. door is run_all.sh's side: nobody imports it.
Ground: units (time base), visemes, paths, files, tensors, errors, assets, claims, provenance, summary.
"""
