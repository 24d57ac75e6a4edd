"""Recordings of sensors: read, cut into windows by the agent's own code, trained on and judged by."""
