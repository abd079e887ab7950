"""A Workspace applied is a Workspace tuned: the same validation and rendering, driven by a watch on Workspaces."""
