"""Programs built on recurrax. Each has a folder and is made to be copied."""
