"""Presence of one client: its entries on rosters, and the data that others see."""
