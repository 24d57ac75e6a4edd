"""An agent's life: configuration into parts, commands, condition, systemd."""
