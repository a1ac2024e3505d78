"""workbench.measure."""
