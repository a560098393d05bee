"""Ways out: how a notification reaches a device or a backend."""
