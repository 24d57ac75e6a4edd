#!/usr/bin/env python3
"""Nine readings of a machine that does not exist, ten times a second, one JSON line each: for vedette's ``exec:`` source.

It stands in for your own sensor: the shipped network ``shuttle-anomaly`` finds its readings normal but for three seconds
of every ten, when the first of them goes astray. A real sensor is read where ``readings`` makes something up.
"""

import json
import random
import time

USUAL = {"f1": 41, "f2": 0, "f3": 84, "f4": 0, "f5": 36, "f6": 0, "f7": 43, "f8": 47, "f9": 3}


def readings():
    values = {name: value + random.gauss(0, 1) for name, value in USUAL.items()}
    if time.monotonic() % 10 > 7:
        values["f1"] += 40
    return values


while True:
    print(json.dumps({"t": time.monotonic(), **readings()}), flush=True)
    time.sleep(0.1)
