"""What the converter and the agent share: values, the bundle's format, preprocessing and decoding.

Pure: numpy, msgspec and cv2 alone, no I/O but the bundle's own file. The accuracy in a manifest is measured through
these very modules, so it is the accuracy of the device.
"""
