"""SpecSync's library: rooms in the order sound travels, over a few ground files.

sound → speech → draft → judge → face → pipeline → measures → figures → jobs; a room imports the ground files,
``kernels`` and rooms to its left. door is run_all.sh's side: nobody imports it.
Ground: units (time base), visemes, paths, caches, streams, locks, files, tensors, errors, values, rows, assets, claims,
provenance, summary.
Start with ``specsync_lib.run("talk.wav", rule="gate", threshold=0.6)``; see ``specsync_lib.pipeline.system.run``.
"""

from specsync_lib import caches, devices

caches.settle()  # before any library looks for its cache
devices.settle_threads()  # before torch reads it


def run(audio, rule=None, threshold=None, **options):
    """The system on a recording: `specsync_lib.pipeline.system.run`, which is imported only when it is called."""
    from specsync_lib.pipeline import system

    return system.run(audio, rule, threshold, **options)
