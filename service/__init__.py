"""The control plane: REST, store, scheduling and the processes it looks after. Imports no torch."""
