"""workbench.train."""
