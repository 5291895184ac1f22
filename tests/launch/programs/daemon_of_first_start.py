# SPDX-License-Identifier: Apache-2.0
"""The first start leaves a daemon and fails. The second succeeds if the daemon is gone. Each writes its token."""

import os
import signal
import sys
import time

folder, restart = os.environ["DIR"], os.environ["SYNCBN_RESTART"]
with open(f"{folder}/token{restart}", "w") as file:
    file.write(os.environ["SYNCBN_TOKEN"] + "\n")
if restart == "1":
    with open(f"{folder}/daemon") as file:
        sys.exit(7 if os.path.exists(f"/proc/{int(file.read())}") else 0)
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(f"{folder}/daemon", "w") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(1000)
while not os.path.exists(f"{folder}/daemon"):
    time.sleep(0.01)
sys.exit(5)
