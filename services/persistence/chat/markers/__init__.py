"""Up to where users have read their conversations, and what they prefer in them.

`record` has the rules of merging, `kept` what Redis has, `markers` puts Redis and the store together, `flushing` writes
to the store behind Redis.
"""
