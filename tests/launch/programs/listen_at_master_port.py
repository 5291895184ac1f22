# SPDX-License-Identifier: Apache-2.0
"""Listens at $MASTER_PORT, as a framework does, until there is a file named go in $DIR."""
import os
import socket
import time

folder, port = os.environ["DIR"] + "/", int(os.environ["MASTER_PORT"])
listener = socket.create_server(("", port))
print(port, os.environ["SYNCBN_STORE"])
open(folder + "up" + os.environ["JOB"], "w").close()
while not os.path.exists(folder + "go"):
    time.sleep(0.01)
