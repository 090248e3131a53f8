"""Train state saved, verified and restored (section 3.3)."""
