"""Rules, which select weights and say how they learn."""
