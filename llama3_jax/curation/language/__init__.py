"""Which language a text is in: fastText models, given or trained."""
