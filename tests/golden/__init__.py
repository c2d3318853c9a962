"""Events and histories as they were once written: read for ever, added to, never changed."""
