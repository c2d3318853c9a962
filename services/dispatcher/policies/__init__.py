"""Pure choices: which slot serves which lane, when a failed attempt is tried again, whose a slot is."""
