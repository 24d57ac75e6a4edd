"""A name or a path becomes a network that has proved itself on this device."""
