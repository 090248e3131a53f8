"""What makes documents and lines the same: keys of URLs and contents, MinHash signatures, normalised lines."""
