"""What `attune data` runs: `python -m trainer.data_tools REQUEST`, with JSON as `trainer.data_tools.request` has it."""
