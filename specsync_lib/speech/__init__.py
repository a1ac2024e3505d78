"""specsync_lib.speech."""
