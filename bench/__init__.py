"""Measures the platform beside other servers, in alternation. See README.md."""
