"""Delivery checker: seeded load and faults, a recorded history, and a judge of it.

The judge reads the history only, and shares no code with the servers.
"""
