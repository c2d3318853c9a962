"""The only package that speaks NATS: a connection, and what Taskfold does over it, one concept a file."""
