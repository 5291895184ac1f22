# SPDX-License-Identifier: Apache-2.0

"""Delays what this host sends over TCP: python3 relay.py <seconds>. Connections come to port 9999 by a redirection;
each goes on to where it was meant for, marked so that it is not redirected again. Prints `ready`."""
import asyncio
import socket
import struct
import sys

delay = float(sys.argv[1])
SO_ORIGINAL_DST, SO_MARK = 80, 36


async def copy(reader, writer):
    pending = asyncio.Queue()

    async def deliver():
        while True:
            due, data = await pending.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                return writer.close()
            writer.write(data)

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(deliver())
    data = b"?"
    while data:
        try:
            data = await reader.read(65536)
        except ConnectionError:
            data = b""
        pending.put_nowait((loop.time() + delay, data))
    await task


async def serve(reader, writer):
    meant = writer.get_extra_info("socket").getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    port, address = struct.unpack("!2xH4s8x", meant)
    onward = socket.socket()
    onward.setsockopt(socket.SOL_SOCKET, SO_MARK, 1)
    onward.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(onward, (socket.inet_ntoa(address), port))
    except OSError:  # nothing listens yet
        return writer.transport.abort()
    far_reader, far_writer = await asyncio.open_connection(sock=onward)
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 9999)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
