"""What is done to every target alike; each returns its figures by name."""
