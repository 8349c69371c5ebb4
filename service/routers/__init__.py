"""REST handlers, a file a resource: they parse, call and return."""
