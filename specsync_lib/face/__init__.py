"""specsync_lib.face."""
