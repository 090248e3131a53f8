"""Models to scores on held-out text (section 5)."""
