"""Weights in the layouts that others read and write: Hugging Face's and Meta's, and ours, each into any other."""
