"""The demo: a broker, an agent in a process of its own, and a view of what the broker delivers."""
