"""Measures the platform beside other servers: same scenario, same machine, in alternation. See README.md."""
