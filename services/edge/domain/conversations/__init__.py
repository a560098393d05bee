"""Methods on conversations, as an edge serves them: persistence decides."""
