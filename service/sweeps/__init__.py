"""Sweeps: searches over settings, whose trials are jobs."""
