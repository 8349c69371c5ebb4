"""Evaluation: zero-shot and supervised classification, and image-text retrieval, over any number of ranks.

`datasets.evaluate_dataset` is the way in, for training, for `trainer/evaluate.py` and for the service. Evaluating
has no side effects: modules get their training flag back, and nothing is written.
"""
