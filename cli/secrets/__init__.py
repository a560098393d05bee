"""The secrets of a deployment, as files: made, rotated, and the certificate for development."""
