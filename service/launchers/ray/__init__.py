"""The Ray engine: `launcher` in the service, `driver` in a child process with Ray in it, `actor` on every node."""
