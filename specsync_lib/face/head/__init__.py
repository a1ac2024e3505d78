"""The reference head: a mesh with 52 ARKit units, lit and drawn on the CPU; truth's pictures, the body of the video.

In: a sync plan. Out: ``FaceTracks`` (units [frames, 52] in [0, 1], pose [frames, 3] in rad) and uint8 pictures.
Start with ``motion.face_tracks``, ``head.Head``.
"""
