"""What Taskfold costs, measured on real processes, each figure beside the floor of the same run."""
