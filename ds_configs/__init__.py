"""Short DeepSpeed JSON files, one a ZeRO stage and kind of offload."""
