"""Rules: which weights, and what is different about their learning."""
