"""Training: batches and an objective in, better parameters out (Llama 3 section 3.4)."""
