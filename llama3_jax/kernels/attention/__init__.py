"""Attention over key intervals; `flash_attention.flash_attention` is the public function."""
