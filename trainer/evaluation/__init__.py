"""Evaluation: classification and image-text retrieval, over any number of ranks, and what is told about them.

`datasets.evaluate_dataset` is the way in, for training, for `trainer/evaluate.py` and for other commands. Measuring has
no side effects: modules get their training flag back, and nothing is written. `tables`, `figures` and `report` are for
anybody who has a table to tell.
"""
