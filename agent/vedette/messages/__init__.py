"""From results and conditions to the bodies of messages."""
