"""What `attune data bench` does: how fast data come, stage by stage, and how fast a model takes them."""
