"""The projector: folds the log into the SQLite read model."""
