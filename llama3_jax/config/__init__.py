"""Run files: YAML to nested frozen dataclasses and back, every value with the place it came from.

`load.load` composes a file, programmatic values and `a.b=c` overrides into a dataclass; `files.find_config`
finds a run file by path or by its published name. This room knows no other room and no jax.
"""
