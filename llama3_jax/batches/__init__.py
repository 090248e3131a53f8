"""Token shards to mixed, packed, staged batches (sections 3.1.2 and 3.4)."""
