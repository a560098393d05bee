"""What is measured: the platform, and its peers beside it."""
