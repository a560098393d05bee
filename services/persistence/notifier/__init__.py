"""Notifier: tells phones, browsers and backends of messages to absent users.

See planner.py, docs/push.md and docs/decisions/0061.
"""
