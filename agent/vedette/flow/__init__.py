"""One sample, the whole way: what is looked at, who runs when, and how long it took."""
