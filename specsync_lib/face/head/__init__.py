"""specsync_lib.face.head."""
