"""Sweeps: spaces of settings, trials on Ray Tune, what they found. Knows Ray; imports the pipeline and training."""
