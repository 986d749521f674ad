"""A GAN that learns from one loss, with one optimizer, in one `fit`."""
