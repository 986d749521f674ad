"""Taggers: sequences of characters or words in, one tag for each out."""
