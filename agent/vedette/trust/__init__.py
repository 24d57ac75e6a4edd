"""Who signed a bundle, which version may run, who may read the secrets."""
