"""Training: data, the loop, weights that are kept."""
