"""The hot log in Redis: keys, scripts and a thin adapter, read alike by edges, persistence and presence."""
