"""specsync_lib.pipeline.run."""
