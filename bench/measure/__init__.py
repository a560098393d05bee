"""What is measured at the servers: CPU, memory, metrics; and statistics of rounds."""
