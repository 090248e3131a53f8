"""Device meshes, the one table from logical dims to mesh axes, and matmuls that gather their weights (section 3.3)."""
