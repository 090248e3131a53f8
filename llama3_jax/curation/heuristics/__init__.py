"""Rules that judge a document by what can be counted in it."""
