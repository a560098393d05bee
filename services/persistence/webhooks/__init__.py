"""Webhooks: brings events of the feed to backends over HTTP.

See dispatcher.py and docs/webhooks.md.
"""
