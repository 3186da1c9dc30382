#!/usr/bin/env python3
"""What a client feels of a drive that hangs: it answers nothing for ten seconds, reads included, and then goes on.

    hang.py --mesh BINARY [--times 5] [--folder FOLDER]

Three `mesh serve` processes on the loopback with three drives each, code 4+2. One of the drives lies on a file system of user
space (`bindfs`), whose process is stopped by SIGSTOP for ten seconds, so that every read, write and sync of that drive waits as
long. A client puts and gets objects of 64 KiB meanwhile, 20 of each a second, through all nodes in turn: first at rest, then
while the drive hangs.

Needs root, /dev/fuse and bindfs; without them it says SKIPPED. Stdout: a line a figure. The exit code is 1 if a request failed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rate import PACE, QUIET, Client, Roomy, at_home, drives, say  # noqa: E402: found only now
from nodes import Mesh, READY, run, until  # noqa: E402

# Seconds: how long it hangs, and how long it is left alone after that.
HANGS, RESTS = 10, 10
SLOW = (2, "b")


class Slow(Roomy):
    """A node, one of whose drives may lie on what can be stopped."""

    daemon = None

    def make(self):
        if self.number != SLOW[0]:
            return
        below, above = f"{self.root}/below", f"{self.root}/drive-{SLOW[1]}"
        os.makedirs(below)
        os.makedirs(above)
        self.daemon = subprocess.Popen(["bindfs", "-f", below, above], stdin=subprocess.DEVNULL)
        until("a file system of user space", 30, lambda: True if os.path.ismount(above) else None)

    def clean(self):
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGCONT)
            run("umount", "--lazy", f"{self.root}/drive-{SLOW[1]}")
            self.daemon.wait(timeout=30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True, metavar="BINARY")
    parser.add_argument("--times", type=int, default=5, help="how often it hangs")
    parser.add_argument("--folder", help="where the drives are to be; otherwise a temporary one")
    args = parser.parse_args()
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not shutil.which("bindfs"):
        print("SKIPPED: no root, no /dev/fuse or no bindfs")
        return 0
    args.code, args.seed, args.drive, args.rate = "4+2", 1, "2GiB", "64MiB"
    nodes = []
    with tempfile.TemporaryDirectory(prefix="mesh-hang-", dir=args.folder) as folder:
        try:
            mesh = Mesh(folder, args, nodes, kind=Slow, prefix="hang")
            mesh.environment["MESH_ADMIN_IDENTITY"] = f"{nodes[0].folder}/admin.pem"
            mesh.whole()
            until("all drives are up", READY, lambda: True if len(drives(mesh)) == 9 else None)
            until("all is laid out", READY, lambda: at_home(mesh))
            client = Client(mesh)
            time.sleep(QUIET + 512 / PACE)
            client.since()
            time.sleep(QUIET)
            say("at rest", client)
            daemon = next(node.daemon for node in nodes if node.daemon)
            for turn in range(1, args.times + 1):
                daemon.send_signal(signal.SIGSTOP)
                time.sleep(HANGS)
                daemon.send_signal(signal.SIGCONT)
                say(f"while it hangs, time {turn}", client)
                states = {drive: said["state"] for drive, said in drives(mesh).items() if said["state"] != "up"}
                time.sleep(RESTS)
                say(f"after it, where {states or 'all drives are up'}", client)
            client.stop.set()
            client.thread.join()
            client.pool.shutdown()
            for failure in client.failed[:10]:
                print(f"  failed: {failure}", flush=True)
            return 1 if client.failed else 0
        finally:
            for node in nodes:
                node.end()


if __name__ == "__main__":
    sys.exit(main())
