"""specsync_lib.measures."""
