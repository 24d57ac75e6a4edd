#!/usr/bin/env python3
"""Acceleration of an LIS3DH on I2C bus 1, one JSON line a reading, in m/s2. For vedette's ``exec:`` source.

pip install smbus2
python3 lis3dh.py              400 readings a second of the sensor at address 0x18
python3 lis3dh.py --simulate   as many without a sensor: a motor at 25 Hz, and gravity
"""

import json
import math
import sys
import time

RATE_HZ, ADDRESS, G = 400, 0x18, 9.80665
CTRL_REG1, CTRL_REG4, STATUS_REG, OUT_X_L = 0x20, 0x23, 0x27, 0x28  # the data sheet's section 8
AUTO_INCREMENT = 0x80  # in a register's number: the next byte is the next register's


def sensor():
    """Each reading of the sensor, as it is ready: x, y, z."""
    from smbus2 import SMBus

    with SMBus(1) as bus:
        bus.write_byte_data(ADDRESS, CTRL_REG1, 0x77)  # 400 Hz, all axes
        bus.write_byte_data(ADDRESS, CTRL_REG4, 0x88)  # whole readings alone; 12 bits, -2 g to 2 g
        while True:
            while not bus.read_byte_data(ADDRESS, STATUS_REG) & 0x08:
                time.sleep(0.0005)
            raw = bytes(bus.read_i2c_block_data(ADDRESS, OUT_X_L | AUTO_INCREMENT, 6))
            # left-justified in 16 bits, 1 mg a step of the upper 12
            yield [int.from_bytes(raw[i : i + 2], "little", signed=True) / 16 * 0.001 * G for i in (0, 2, 4)]


def simulated():
    """What a motor would show."""
    begun = time.monotonic()
    for n in range(sys.maxsize):
        time.sleep(max(0.0, begun + n / RATE_HZ - time.monotonic()))
        turn = 2 * math.pi * 25 * n / RATE_HZ
        yield [0.5 * math.sin(turn), 0.5 * math.cos(turn), G]


for x, y, z in simulated() if "--simulate" in sys.argv else sensor():
    print(json.dumps({"t": time.monotonic(), "x": round(x, 4), "y": round(y, 4), "z": round(z, 4)}), flush=True)
