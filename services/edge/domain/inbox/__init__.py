"""Inboxes that clients of this edge watch."""
