"""What this device can do, and what to mend: what ``vedette doctor`` looks at.

Read from /proc, /sys, /dev and /etc, without root, without opening a camera or a sensor, and without changing anything.
"""
