"""Revisions of the database layout, oldest first."""
