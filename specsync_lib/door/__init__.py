"""specsync_lib.door."""
