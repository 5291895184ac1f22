# SPDX-License-Identifier: Apache-2.0

"""What a Kubernetes service does, in user space: forward.py <address> <port> <to address>

Every connection to address:port goes on to the same port of the other address, once somebody listens there.
"""

import socket
import sys
import threading
import time

address, port, to = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()


def serve(client):
    while True:
        try:
            server = socket.create_connection((to, port))
            break
        except OSError:
            time.sleep(0.02)
    threading.Thread(target=copy, args=(server, client), daemon=True).start()
    copy(client, server)


listener = socket.create_server((address, port))
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
