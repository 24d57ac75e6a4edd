"""Trainable Keras definitions of published networks, which take the published weights by name."""
