"""The neighbour: each request takes some milliseconds of work, as a page of a common app does.

A port of its own is open to whoever gets there, which nobody should; `/contacts` says how many did.
"""

import hashlib
import json
import socket
import threading

PORT = 9009
ROUNDS = 4000

contacts = []


def listen():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", PORT))
    listener.listen()
    while True:
        stream, address = listener.accept()
        contacts.append(address[0])
        stream.close()


def address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect(("192.0.2.1", 9))  # Sends nothing.
        return datagrams.getsockname()[0]


threading.Thread(target=listen, daemon=True).start()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "application/json")])
    if path == "/contacts":
        return [json.dumps({"address": address(), "port": PORT, "contacts": contacts}).encode()]
    digest = b""
    for _ in range(ROUNDS):
        digest = hashlib.sha256(digest).digest()
    return [json.dumps({"digest": digest.hex()}).encode()]
