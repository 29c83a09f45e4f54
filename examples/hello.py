"""Run me in a kernel: ``kernel-mgmt run native/python3 examples/hello.py``."""

import os
import platform
import time

print(f"Hello from Python {platform.python_version()}, process {os.getpid()}.")
for number in range(1, 6):
    print(f"  {number} x {number} = {number * number:2}", flush=True)
    time.sleep(0.2)  # long enough to see that output comes as it is made

# The value of the last line is shown, as in a notebook.
sum(number * number for number in range(1, 6))
