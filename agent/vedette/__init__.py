"""vedette: run quantised TFLite bundles on a camera, on the device, and publish what they see over MQTT."""

__version__ = "0.1.0"
