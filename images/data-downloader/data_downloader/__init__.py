"""Brings the dataset into the data volume: every byte, under its final name only when whole."""
