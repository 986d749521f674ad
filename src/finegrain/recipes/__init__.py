"""Rules for the usual ways to fine-tune a model."""
