"""One machine: everything in one process tree, nats-server included."""
