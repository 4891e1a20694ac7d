"""Programs built on recurrax, each in a folder of its own, made to be copied."""
