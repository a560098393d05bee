"""Words of messages and of queries, and what an index of them can do."""
