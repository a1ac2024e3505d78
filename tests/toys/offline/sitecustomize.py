"""On the path of a process and all that it starts, it refuses every address but this machine's own and notes the try.

Python imports a module of this name by itself. An audit hook sees each socket that Python's own code opens, whoever
does it; ``SPECSYNC_TEST_SOCKETS`` names the file of notes, which begins with a line for each process that is watched.
"""

import ipaddress
import os
import sys

NOTES = os.environ["SPECSYNC_TEST_SOCKETS"]
EVENTS = (
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname",
)


def note(line):
    with open(NOTES, "a", encoding="utf-8") as file:  # noqa: PTH123 (pathlib is not there yet)
        file.write(line + "\n")


def own(host):
    """Whether an address stays on this machine."""
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


def watch(event, arguments):
    if event not in EVENTS:
        return
    address = arguments[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else arguments[1]
    if address is None or (isinstance(address, (str, bytes)) and "get" not in event):
        return  # connected before, or a socket of the file system
    host = address[0] if isinstance(address, tuple) else address
    if not own(host):
        note(f"refused {event} {address!r} in {sys.argv[:3]}")
        raise OSError(f"{event} {address!r}: only this machine's own addresses are allowed here")


note(f"watched {os.getpid()}")
sys.addaudithook(watch)
