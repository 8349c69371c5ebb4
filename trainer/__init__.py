"""What runs on the GPUs: fine-tuning, evaluation and export of CLIP-family models."""
