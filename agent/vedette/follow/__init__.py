"""Results over time: identities, zones and wires, hysteresis, events."""
