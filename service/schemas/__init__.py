"""The REST shapes: what bodies may hold and what answers look like. A file a resource."""
