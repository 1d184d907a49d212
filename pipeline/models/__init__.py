"""The networks, and how finished ones lie on disk."""
