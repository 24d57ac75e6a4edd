"""Faults, injected on purpose into a running agent, and an account of what it made of them."""
