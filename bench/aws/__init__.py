"""What a million messages cost in AWS."""
