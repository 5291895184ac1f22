# SPDX-License-Identifier: Apache-2.0
"""Listens at an address and a port and answers as a web server, or never ("web", "silent")."""

import os
import socket
import sys
import time

address, port, kind = sys.argv[1:]
listener = socket.create_server((address, int(port)))
with open(os.environ["DIR"] + "/listening", "w"):
    pass
while True:
    connection = listener.accept()[0]
    if kind == "web":
        connection.send(b"HTTP/1.1 400 Bad Request\r\n")
    else:
        time.sleep(1000)
