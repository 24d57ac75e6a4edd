"""Makes small, fast, proven TFLite bundles on a workstation, for the agent `vedette` to run.

recipe -> load -> calibrate -> quantise -> evaluate -> gate -> bundle. Everything is measured with the agent's own
preprocessing, engine and decoders.
"""
