#!/usr/bin/env python3
"""Cuts the power of nodes under concurrent small PUTs, and looks for every object that was acknowledged.

    cut.py --mesh target/release/mesh --fs ext4 --cycles 50 [--cut one|all|both] [--clients 8] [--code 2+1]

Needs root: a node's metadata and each of its two drives have a loop device and a file system of their own, so that no sync
of one covers what another left out. A cut stops the process (SIGSTOP), shuts its file systems down so that everything
which was not synced is gone, kills the process, mounts the file systems again and starts the node anew.

A cycle either cuts in the middle of a steady load, or right after the last answer of a burst: that is when nothing
follows which could cover what a sync left out. With `both`, cycles take turns between one node and all nodes at once.

After every cut each object that was acknowledged since the last one is read and compared byte for byte, and a sample of
the older ones; after the last cycle, all. An object without an acknowledgement may be there or not, but not with other
bytes. Stdout: a line a cycle, and `lost N` at the end; the exit code is 1 if an object was lost or wrong, or the mesh did
not come back. Without root or boto3 it prints SKIPPED.
"""

import argparse
import concurrent.futures
import fcntl
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time

from nodes import BACK, NODES, Mesh, Node, run, steady, until

IMAGE_BYTES = 1 << 30
PLACES = ("machine", "drive-a", "drive-b")
# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2: without writing the log.
SHUTDOWN, WITHOUT_LOG = 0x8004587D, 2
OLDER_SAMPLE = 200
BURST_OBJECTS = 3


class Place:
    """A file system on a loop device."""

    def __init__(self, path, kind):
        self.image, self.path, self.mounted = f"{path}.img", path, False
        os.makedirs(path)
        with open(self.image, "wb") as image:
            image.truncate(IMAGE_BYTES)
        run(*{"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}[kind], self.image)
        self.mount()

    def mount(self):
        run("mount", "-o", "loop", self.image, self.path)
        self.mounted = True

    def unmount(self):
        if self.mounted:
            until(f"unmount {self.path}", 30, lambda: run("umount", self.path))
            self.mounted = False
            # The device goes with the last user of the mount, a moment later.
            attached = lambda: run("losetup", "-j", self.image).stdout
            until(f"detach {self.image}", 30, lambda: None if attached() else "detached")

    def cut(self):
        """Everything that was not synced is gone."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(handle)

    def end(self):
        self.unmount()
        os.remove(self.image)


class OnPlaces(Node):
    """A node whose metadata and drives have file systems of their own."""

    def __init__(self, *given):
        super().__init__(*given)
        self.places = []

    def make(self):
        for place in PLACES:
            self.places.append(Place(f"{self.root}/{place}", self.args.fs))

    def remount(self):
        for place in self.places:
            place.unmount()
            place.mount()

    def cut(self):
        for place in self.places:
            place.cut()

    def clean(self):
        for place in self.places:
            place.end()


def cycle(mesh, rng, cut_all, burst):
    """Load, a cut, and everything back. Gives the numbers of the nodes that were cut."""
    victims = list(mesh.nodes) if cut_all else [rng.choice(mesh.nodes)]
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(mesh.args.clients) as pool:
        try:
            if burst:
                numbers = [rng.choice(NODES) for _ in range(mesh.args.clients * BURST_OBJECTS)]
                list(pool.map(mesh.put, numbers))
            else:
                for _ in range(mesh.args.clients):
                    pool.submit(steady, mesh, stop)
                time.sleep(rng.uniform(0.5, 2.5))
            for node in victims:
                node.stop()
            for node in victims:
                node.cut()
            for node in victims:
                node.kill()
            for node in victims:
                node.remount()
                node.serve()
            if not burst and not cut_all:
                # The others go on without it, and with it again.
                time.sleep(rng.uniform(0.0, 1.0))
        finally:
            stop.set()
    until("the mesh is back", BACK, lambda: mesh.whole() or "back")
    return [node.number for node in victims]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True, help="the program")
    parser.add_argument("--fs", choices=("ext4", "xfs"), default="ext4")
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--cut", choices=("one", "all", "both"), default="both")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--code", default="2+1", help="data and parity shards")
    parser.add_argument("--seed", type=int, default=1, help="of the nodes that are cut and the moments")
    parser.add_argument("--folder", help="where the images and logs are made; default: a temporary folder")
    parser.add_argument("--keep-logs", action="store_true", help="leave the nodes' logs behind")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("SKIPPED: loop devices need root")
        return 0
    args.mesh = os.path.abspath(args.mesh)
    rng = random.Random(args.seed)
    folder = tempfile.mkdtemp(prefix="mesh-power-", dir=args.folder)
    nodes, code = [], 1
    try:
        mesh = Mesh(folder, args, nodes, OnPlaces)
        mesh.whole()
        older = []
        for number in range(1, args.cycles + 1):
            began = time.monotonic()
            cut_all = args.cut == "all" or (args.cut == "both" and number % 2 == 0)
            burst = number % 4 >= 2
            victims = cycle(mesh, rng, cut_all, burst)
            known = set(older)
            newer = [key for key in mesh.acknowledged if key not in known]
            asked = [*rng.sample(older, min(OLDER_SAMPLE, len(older))), *newer]
            counts = mesh.check({key: mesh.acknowledged[key] for key in asked}, mesh.uncertain)
            older, mesh.uncertain = list(mesh.acknowledged), {}
            print(
                f"cycle {number}: {args.fs}, cut {victims} {'after a burst' if burst else 'under load'}, "
                f"{len(asked)} acknowledged ones looked for, {counts['kept']} read, lost {counts['lost']}, wrong {counts['wrong']}, "
                f"{time.monotonic() - began:.1f} s",
                flush=True,
            )
        acknowledged = len(mesh.acknowledged) + len(mesh.lost)
        mesh.check(dict(mesh.acknowledged), {})
        print(
            f"{args.cycles} cycles on {args.fs}: acknowledged {acknowledged}, lost {len(mesh.lost)}, "
            f"wrong {len(mesh.wrong)}"
        )
        code = 1 if mesh.lost or mesh.wrong else 0
    except (TimeoutError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}")
    finally:
        for node in nodes:
            node.end()
        print(f"logs: {folder}") if code or args.keep_logs else run("rm", "-r", folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
