"""Search in conversations: what keeps the index up to date, and answers."""
