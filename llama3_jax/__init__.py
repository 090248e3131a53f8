"""The system of "The Llama 3 Herd of Models" in JAX, from raw text to a served and evaluated model."""

__version__ = "0.1.0"
