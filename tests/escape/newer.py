"""A server that is newer than Redis: every command with keys is there under another name as well,
which nearcache knows from COMMAND only.

It stands between nearcache and the real server, lists the other names, and calls the commands by
their own when they are asked for.
"""
import socket
import threading

import harness

BY = b"new."


def alias(argv):
    """The vector with the command's other name."""
    return [BY + argv[0], *argv[1:]]


def flat(value):
    """A RESP2 reply of parsed values, as bytes."""
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(flat, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    return b"+" + value.encode() + b"\r\n" if isinstance(value, str) else \
        b"$%d\r\n%s\r\n" % (len(value), value)


class Reader:
    """Commands, one by one, from a connection of nearcache's."""

    def __init__(self, sock):
        self.file = sock.makefile("rb")

    def command(self):
        """Its arguments; None at the end."""
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            return None
        argv = []
        for _ in range(int(line[1:])):
            size = int(self.file.readline()[1:])
            argv.append(self.file.read(size))
            self.file.read(2)
        return argv


class NewerServer(threading.Thread):
    """Accepts until stop(); `port` is where."""

    def __init__(self, server, rows):
        super().__init__(daemon=True)
        self.server = server
        others = [self.renamed(row) for row in rows if row[3] or row[8]]
        self.theirs, self.all = b"*%d\r\n" % len(rows), b"*%d\r\n" % (len(rows) + len(others)) + \
            b"".join(map(flat, others))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    @staticmethod
    def renamed(row):
        return [BY + row[0], *row[1:9], [[BY + sub[0], *sub[1:9], []] for sub in row[9]]]

    def run(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.server.address)
            threading.Thread(target=self.requests, args=(near, server), daemon=True).start()
            threading.Thread(target=self.replies, args=(server, near), daemon=True).start()

    @staticmethod
    def requests(near, server):
        reader = Reader(near)
        try:
            while (argv := reader.command()) is not None:
                if argv and argv[0].lower().startswith(BY):
                    argv[0] = argv[0][len(BY):]
                server.sendall(harness.encode(*argv))
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def replies(self, server, near):
        """COMMAND's is the only reply that begins so."""
        try:
            while data := server.recv(1 << 20):
                near.sendall(data.replace(self.theirs + b"*10\r\n", self.all + b"*10\r\n"))
            near.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def stop(self):
        self.listener.close()


def add(stage, directory):
    """Gives the stage a third nearcache, which learns commands."""
    newer = NewerServer(stage.server, stage.direct.call("COMMAND"))
    newer.start()
    stage.add_nearcache(directory, "learned", "strict", newer.port)
    stage.newer = newer
