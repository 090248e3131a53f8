"""Prompts to tokens: prefill, paged decode, sampling."""
