"""specsync_lib.draft.plan."""
