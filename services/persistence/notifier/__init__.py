"""Notifier: tells phones, browsers and backends of messages to absent users.

See planner.py and docs/push.md.
"""
