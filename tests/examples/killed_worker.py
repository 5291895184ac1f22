# SPDX-License-Identifier: Apache-2.0
"""Task of the resumption test: arguments are the program, its checkpoint's file, and where in the file the epoch stands.

The first start would never end: rank 1 kills itself once there is a checkpoint. The second start runs to the epoch after
the checkpoint's."""

import os
import signal
import struct
import subprocess
import sys
import time

program, file, offset = sys.argv[1:]


def command(epochs):
    return [program, "--epochs", str(epochs), "--checkpoint", file]


if os.environ["SYNCBN_RESTART"] != "0":
    with open(file, "rb") as checkpoint:
        done = struct.unpack_from("<I", checkpoint.read(), int(offset))[0]
    os.execv(program, command(done + 1))
if os.environ["RANK"] == "0":
    os.execv(program, command(100000))
worker = subprocess.Popen(command(100000))
while not os.path.exists(file) and worker.poll() is None:
    time.sleep(0.01)
worker.kill()
worker.wait()
os.kill(os.getpid(), signal.SIGKILL)
