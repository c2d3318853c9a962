"""The api: accepts tasks over HTTP, tells what became of them, and streams their events."""
