"""vedette: run quantised TFLite bundles on a camera, on the device, and publish what they see over MQTT."""

import os

__version__ = "0.1.0"

# before OpenCV is loaded, which reads it then: a JPEG of 200 bytes can claim to be 400 megapixels, and would be
# decoded into 1.2 GB. As `vedette.pictures.drawing.MAX_PIXELS`, which is for what a file's head says.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")
