"""Attention and cross entropy: a clear reference beside every fast implementation (section 3.2)."""
