"""Webhooks: telling other programs of what happens to jobs, after https://www.standardwebhooks.com."""
