"""The author's side: a Workspace becomes a Job. In none of the three images."""
