"""The demonstration: everything that the project does, on this machine, in a few minutes."""
