"""Text to token ids and back: the Llama 3 byte-pair encoding, its training, shards of documents."""
