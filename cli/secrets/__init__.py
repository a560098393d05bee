"""The secret files of a deployment, and the certificate for development."""
