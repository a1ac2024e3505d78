"""specsync_lib.judge."""
