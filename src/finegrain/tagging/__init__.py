"""Tagging text."""
