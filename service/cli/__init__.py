"""The `attune` command. A file a command group; `main.py` puts them together."""
