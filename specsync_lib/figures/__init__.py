"""specsync_lib.figures.style."""
