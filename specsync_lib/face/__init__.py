"""The face: Wan's latents to frames to an MP4; ``head`` renders the person that it is compared with.

In: a sync plan, drafted latents [16, slots, h, w]. Out: uint8 frames [n, height, width, 3] at 30 per second, laid into
a 1280 x 720 picture, muxed with the sound. ``wan`` reads any Wan 2.1 checkpoint, ``adapter`` tells its transformer the
plan, ``wan_mini`` is the suite's own, ``decoders`` make frames of its latents.
Start with ``wan.load_video``, ``generation.FaceGenerator``, ``compositing.composite``, ``video.write_video``.
"""
