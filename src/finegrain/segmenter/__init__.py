"""A word segmenter: text in, words out."""
