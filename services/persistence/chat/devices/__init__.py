"""Devices: where a user's notifications are sent to."""
