"""Files and sources of text to clean documents, and documents to the token shards a run trains on."""
