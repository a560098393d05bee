"""What is measured at the servers: CPU and memory from /proc, counters from /metrics, and statistics of rounds."""
