"""Waits for the trainer's outcome, builds the adapter image, and delivers it."""
