"""The original starts its metrics in a program of their own; our trainer serves them itself, at the same port."""
