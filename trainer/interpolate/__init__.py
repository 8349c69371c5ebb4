"""WiSE-FT and Fisher-weighted merges of finished models, as `attune interpolate` and `attune fisher` run them.

Inside a job, `export.wise_ft` does the same with the weights in memory: `trainer.wise_ft_run`.
"""
