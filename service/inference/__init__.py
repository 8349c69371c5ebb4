"""Answers about images: a gateway without torch, and worker processes with it."""
