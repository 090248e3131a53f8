"""The Llama 3 transformer: configs, rotary embedding, blocks, KV cache (section 3.2)."""
