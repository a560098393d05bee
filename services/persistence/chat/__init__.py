"""Conversations over the log: the log itself knows nothing of this package."""
