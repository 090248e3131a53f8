"""Input files of every kind as raw documents: WARC, HTML, JSON lines, Parquet, text, source trees, subtitles."""
