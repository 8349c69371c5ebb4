"""Uploaded files: how they arrive, where they lie, and how archives become folders of images."""
