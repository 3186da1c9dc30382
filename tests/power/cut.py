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
import ctypes
import fcntl
import hashlib
import os
import random
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

try:
    import boto3
    from botocore.client import Config
    from botocore.exceptions import ClientError
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

NODES = (1, 2, 3)
IMAGE_BYTES = 1 << 30
DRIVE = "640MiB"
PLACES = ("machine", "drive-a", "drive-b")
# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2: without writing the log.
SHUTDOWN, WITHOUT_LOG = 0x8004587D, 2
# Seconds.
READY, BACK, COMMAND, READ_AGAIN = 120, 120, 60, 60
OLDER_SAMPLE = 200
BURST_OBJECTS = 3
# Hashes of 32 bytes: most objects are small, some have writes that take a while.
SMALL, LARGE = 400, 8000


def run(*command, wanted=True):
    """A command that ends within a minute."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND)
    if wanted and done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def until(what, seconds, ask):
    """What `ask` gives once it neither fails nor gives None."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            answer = ask()
            if answer is not None:
                return answer
        except Exception as error:  # noqa: BLE001: asked again until the time is up
            last = error
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds} s: {last}")


def free_ports(count):
    """TCP and UDP ports of the loopback below those that the system gives away by itself."""
    ports, port = [], 12_000 + os.getpid() * 97 % 15_000
    while len(ports) < count:
        port += 1
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
                ports.append(port)
            except OSError:
                pass
    return ports


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


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


class Node:
    """The file systems of a node, and the process that lives on them."""

    def __init__(self, number, folder, args, address, s3):
        self.number, self.args, self.address, self.s3 = number, args, address, s3
        self.root, self.child, self.places = f"{folder}/node-{number}", None, []
        self.log = open(f"{folder}/node-{number}.log", "ab")
        self.folder = f"{self.root}/machine/mesh"

    def make(self):
        for place in PLACES:
            self.places.append(Place(f"{self.root}/{place}", self.args.fs))

    def remount(self):
        for place in self.places:
            place.unmount()
            place.mount()

    def arguments(self):
        drives = [part for drive in "ab" for part in ("--drive", f"{self.root}/drive-{drive}/mesh:{DRIVE}")]
        return ["--dir", self.folder, "--address", self.address, "--s3", self.s3, *drives]

    def serve(self):
        command = [self.args.mesh, "serve", "--config", f"{self.folder}/mesh.toml"]
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=die_with_parent
        )

    def stop(self):
        """SIGSTOP, and wait until every thread has stopped."""
        self.child.send_signal(signal.SIGSTOP)
        state = lambda: open(f"/proc/{self.child.pid}/stat").read().rsplit(")", 1)[1].split()[0]
        until(f"node {self.number} stops", 30, lambda: "stopped" if state() in "TZ" else None)

    def cut(self):
        for place in self.places:
            place.cut()

    def kill(self):
        if self.child is not None:
            self.child.kill()
            self.child.wait(timeout=60)
            self.child = None

    def end(self):
        try:
            self.kill()
            for place in self.places:
                place.end()
        except Exception as error:  # noqa: BLE001: the other nodes are to be cleaned up too
            print(f"node {self.number} is not cleaned up: {error}", file=sys.stderr)
        self.log.close()


class Mesh:
    """Three nodes, their clients, and what was acknowledged."""

    def __init__(self, folder, args, nodes):
        self.args, self.nodes, self.environment = args, nodes, {}
        ports = free_ports(6)
        for number in NODES:
            address, s3 = (f"127.0.0.1:{ports[2 * number - side]}" for side in (2, 1))
            nodes.append(Node(number, folder, args, address, s3))
            nodes[-1].make()
        first = nodes[0]
        run(args.mesh, "init", *first.arguments(), "--code", args.code)
        first.serve()
        self.read_environment(f"{first.folder}/client.env")
        for node in nodes[1:]:
            ticket = f"{folder}/node-{node.number}.invitation"
            invite = (args.mesh, "invite", "--dir", first.folder, "--node", str(node.number), "--out", ticket)
            # The first node may have to be up to be asked for the number.
            until(f"an invitation for node {node.number}", READY, lambda: run(*invite))
            run(args.mesh, "join", "--invitation", ticket, *node.arguments())
            node.serve()
        self.clients = {node.number: self.client(node) for node in nodes}
        self.acknowledged, self.uncertain, self.counter = {}, {}, 0
        self.lost, self.wrong = set(), set()
        self.lock = threading.Lock()

    def read_environment(self, path):
        for line in open(path):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            if name:
                self.environment[name] = shlex.split(value)[0] if value else ""

    def client(self, node):
        return boto3.client(
            "s3",
            endpoint_url=f"http://{node.s3}",
            region_name="us-east-1",
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=15, max_pool_connections=32
            ),
        )

    def bucket(self):
        return self.environment["MESH_BUCKET"]

    def whole(self):
        """Every node takes an object and gives it back."""

        def ask():
            for number, client in self.clients.items():
                key = f"probe/{number}"
                client.put_object(Bucket=self.bucket(), Key=key, Body=b"probe")
                client.get_object(Bucket=self.bucket(), Key=key)["Body"].read()
            return "whole"

        until("the mesh serves", READY, ask)

    def put(self, number):
        """One object, known to be acknowledged only once its answer is here."""
        with self.lock:
            self.counter += 1
            turn = self.counter
        key = f"cut/{turn}"
        body = hashlib.sha256(f"{self.args.seed}.{turn}".encode()).digest()
        body *= 1 + turn * 7 % (LARGE if turn % 4 == 0 else SMALL)
        self.uncertain[key] = body
        try:
            self.clients[number].put_object(Bucket=self.bucket(), Key=key, Body=body)
        except Exception:  # noqa: BLE001: it may have happened or not
            return False
        with self.lock:
            self.acknowledged[key] = self.uncertain.pop(key)
        return True

    def look(self, key, body, acknowledged):
        """'kept', 'lost', 'wrong' or, of what was not acknowledged, 'absent'. Asked again while the answer is no
        answer."""
        end, turn = time.monotonic() + READ_AGAIN, 0
        while True:
            turn += 1
            client = self.clients[NODES[(turn + len(body)) % len(NODES)]]
            try:
                got = client.get_object(Bucket=self.bucket(), Key=key)["Body"].read()
                return "kept" if got == body else "wrong"
            except ClientError as error:
                missing = error.response["Error"]["Code"] in ("NoSuchKey", "404")
                if missing:
                    return "lost" if acknowledged else "absent"
                why = error
            except Exception as error:  # noqa: BLE001: a node that is not there yet
                why = error
            if time.monotonic() > end:
                print(f"  {key}: {why}", flush=True)
                return "lost"
            time.sleep(0.2)

    def check(self, acknowledged, uncertain):
        """How many of these objects were kept, lost, wrong or absent; says which were lost, and counts each once."""
        counts = dict.fromkeys(("kept", "lost", "wrong", "absent"), 0)
        asked = [(key, body, True) for key, body in acknowledged.items()]
        asked += [(key, body, False) for key, body in uncertain.items()]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for (key, _, promised), what in zip(asked, pool.map(lambda one: self.look(*one), asked)):
                # What was never acknowledged and cannot be read is nobody's loss.
                what = "absent" if what == "lost" and not promised else what
                counts[what] += 1
                if what in ("lost", "wrong"):
                    print(f"  {key}: {what}", flush=True)
                    (self.lost if what == "lost" else self.wrong).add(key)
                    self.acknowledged.pop(key, None)
        return counts


def steady(mesh, numbers, stop):
    """A client that puts until it is stopped."""
    turn = random.randrange(3)
    while not stop.is_set():
        turn += 1
        if not mesh.put(numbers[turn % len(numbers)]):
            stop.wait(0.05)


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
                    pool.submit(steady, mesh, NODES, stop)
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
        mesh = Mesh(folder, args, nodes)
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
