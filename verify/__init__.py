"""The delivery checker: seeded load and faults, one recorded history, and a judge apart from the servers."""
