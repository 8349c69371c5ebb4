"""A job's life: states, scheduling, preflight and supervision of attempts."""
