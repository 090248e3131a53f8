"""Meshes of up to eight devices: sizes (data, sequence, model)."""

LAYOUTS = [
    (2, 2, 2), (4, 2, 1), (4, 1, 2), (1, 4, 2), (2, 4, 1), (2, 1, 4), (1, 2, 4),
    (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 1), (2, 1, 2), (1, 2, 2),
]  # fmt: skip
"""Every pair of axes at every pair of sizes 1, 2 and 4 that eight devices hold, and each axis alone."""
