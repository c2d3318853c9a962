"""The dispatcher: matches free slots with waiting tickets, calls the GPUs, appends what happened."""
