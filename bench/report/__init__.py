"""What was measured, as raw results, as a table and as plots."""
