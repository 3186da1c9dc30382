#!/usr/bin/env python3
"""How fast what was on a lost drive is rebuilt, what a client feels of it, and how fast garbage goes with a drive away.

    rate.py --mesh BINARY [--gib 1.0] [--rate 64MiB] [--objects 100000] [--folder FOLDER]

Three `mesh serve` processes on the loopback with three drives each, all in folders of one file system, code 4+2. They are
filled with objects of 4 MiB. Then, in this order:

1. a client puts and gets objects of 64 KiB, 20 of each a second, while nothing else happens;
2. a drive is pulled (its folder is renamed) and declared lost, and the client goes on until every group says that all it
   has is where the newest layout has it;
3. as many bytes as were on that drive are copied with `dd`, durably, from the file of the drive that was pulled;
4. with --objects, so many objects of 100 bytes are put, another drive is pulled and not declared lost, the objects are
   deleted, and it is waited until at most a thousandth of their shards is left on the other drives.

Everything is on one disk and on the CPUs of one machine: what nine machines would do side by side is done in turn here, and
the copy reads and writes that one disk too. Stdout: a line a figure. The exit code is 1 if a request failed.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "power"))

from nodes import Mesh, Node, READY, until  # noqa: E402: found only now

DRIVES = "abc"
LARGE, SMALL, TINY = 4 << 20, 64 << 10, 100
# Requests of each kind a second, and seconds of quiet.
PACE, QUIET = 20, 20
# Seconds.
REPAIRED, RECLAIMED = 1800, 1800


class Roomy(Node):
    """A node with three drives that are large enough."""

    def arguments(self):
        drives = [part for at in DRIVES for part in ("--drive", f"{self.drive(at)}:{self.args.drive}")]
        return ["--dir", self.folder, "--address", self.address, "--s3", self.s3, *drives]

    def drive(self, at):
        return f"{self.root}/drive-{at}/mesh"

    def configure(self):
        path = f"{self.folder}/mesh.toml"
        lines = open(path).read().splitlines()
        values = {"reclaim_grace": '"1s"', "rate": f'"{self.args.rate}"', "out_after": '"0s"'}
        for at, line in enumerate(lines):
            name = line.split("=")[0].strip()
            if name in values:
                lines[at] = f"{name} = {values.pop(name)}"
        if values:
            raise RuntimeError(f"{path} does not name {sorted(values)}")
        with open(path, "w") as file:
            file.write("\n".join(lines) + "\n")


class Client:
    """Puts and gets small objects at an even pace, and says how long each took."""

    def __init__(self, mesh):
        self.mesh, self.stop, self.failed = mesh, threading.Event(), []
        self.took = {"PUT": [], "GET": []}
        self.body = os.urandom(SMALL)
        self.pool = concurrent.futures.ThreadPoolExecutor(32)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def ask(self, what, number, key):
        s3, bucket, began = self.mesh.clients[number], self.mesh.bucket(), time.monotonic()
        try:
            if what == "PUT":
                s3.put_object(Bucket=bucket, Key=key, Body=self.body)
            elif s3.get_object(Bucket=bucket, Key=key)["Body"].read() != self.body:
                raise RuntimeError("other bytes")
        except Exception as error:  # noqa: BLE001: any failure at the client counts
            self.failed.append(f"{what} {key}: {error}")
        self.took[what].append(time.monotonic() - began)

    def run(self):
        turn, due = 0, time.monotonic()
        while not self.stop.is_set():
            turn += 1
            number = self.mesh.up[turn % len(self.mesh.up)]
            self.pool.submit(self.ask, "PUT", number, f"paced/{turn % 512}")
            if turn > 512:
                self.pool.submit(self.ask, "GET", number, f"paced/{(turn + 256) % 512}")
            due += 1 / PACE
            time.sleep(max(0.0, due - time.monotonic()))

    def since(self):
        """What was measured since this was asked last: the 50th and 99th percentile in ms of each, and how many."""
        said = {}
        for what in self.took:
            took, self.took[what] = sorted(self.took[what]), []
            at = lambda part: 1000 * took[min(len(took) - 1, int(part * len(took)))] if took else float("nan")
            said[what] = (at(0.5), at(0.99), len(took))
        return said


def drives(mesh):
    return {drive["id"]: drive for drive in json.loads(mesh.ask(mesh.nodes[0], "status", "--json"))["drives"]}


def used(drive):
    return drive["capacity_bytes"] - drive["free_bytes"]


def groups(mesh):
    (told,) = json.loads(mesh.ask(mesh.nodes[0], "repair", "--json")).values()
    return told


def at_home(mesh):
    """Whether everything is where the newest layout has it; that it was counted is another question."""
    for group in groups(mesh):
        state = group["state"]
        if not state or state["unsettled"] or [state["marked"], state["settled"]] != [group["newest"]] * 2:
            return None
    return True


def newest(mesh):
    return max(group["newest"] for group in groups(mesh))


def fill(mesh, count, size, key):
    body, clients = os.urandom(size), list(mesh.clients.values())
    put = lambda at: clients[at % 3].put_object(Bucket=mesh.bucket(), Key=f"{key}/{at}", Body=body)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(count)))
    return time.monotonic() - began


def say(phase, client):
    for what, (half, most, count) in client.since().items():
        print(f"{phase}: {what} of 64 KiB: p50 {half:.1f} ms, p99 {most:.1f} ms ({count})", flush=True)


def copy(source, target, size):
    """Seconds that it takes to copy so many bytes of a file durably, read from the disk."""
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as caches:
        caches.write("3")
    began = time.monotonic()
    command = ["dd", f"if={source}", f"of={target}", "bs=4M", f"count={size}", "iflag=count_bytes", "conv=fsync"]
    subprocess.run(command, check=True, capture_output=True)
    took = time.monotonic() - began
    os.remove(target)
    return took


def medium(folder):
    """The file of a drive: the largest that is in its folder."""
    found = [os.path.join(root, file) for root, _, files in os.walk(folder) for file in files]
    return max(found, key=os.path.getsize)


def pull(mesh, node, at):
    """Renames a drive's folder. Gives the drive's name once it is missed: nodes number drives as they come to open them."""
    up = {drive for drive, said in drives(mesh).items() if said["state"] == "up"}
    os.rename(node.drive(at), f"{node.drive(at)}.pulled")
    missed = lambda: [drive for drive, said in drives(mesh).items() if drive in up and said["state"] != "up"]
    return until("the drive is missed", 60, lambda: missed() or None)[0]


def lose(mesh, client):
    node = mesh.nodes[1]
    say("at rest", client)
    before, layout = drives(mesh), newest(mesh)
    pulled = f"{node.drive('b')}.pulled"
    gone = pull(mesh, node, "b")
    size = used(before[gone])
    client.since()
    number = gone.removeprefix("drive-")
    until("it is declared lost", 60, lambda: mesh.ask(mesh.nodes[0], "drive", "remove", number, "--lost", "--yes") or True)
    began = time.monotonic()
    until("a newer layout", 120, lambda: True if newest(mesh) > layout else None)
    laid_out = time.monotonic() - began
    until("everything is where it is to be", REPAIRED, lambda: at_home(mesh))
    took = time.monotonic() - began
    say("while it is rebuilt", client)
    copied = [copy(medium(pulled), f"{mesh.folder}/copy", size) for _ in range(3)]
    plain = statistics.median(copied)
    rate = lambda seconds: size / seconds / (1 << 20)
    print(
        f"{gone} had {size / (1 << 20):.0f} MiB: rebuilt in {took:.1f} s ({laid_out:.1f} s of that until the layout), "
        f"{rate(took):.0f} MiB/s; copied in {plain:.1f} s ({min(copied):.1f} to {max(copied):.1f}), {rate(plain):.0f} MiB/s: "
        f"{took / plain:.1f} times as long",
        flush=True,
    )


def reclaim(mesh, count):
    node = mesh.nodes[2]
    shards = lambda: sum(drive["shards"] for drive in drives(mesh).values() if drive["state"] == "up")
    before = drives(mesh)
    put = fill(mesh, count, TINY, "tiny")
    gone = pull(mesh, node, "c")
    full = shards()
    base = sum(said["shards"] for drive, said in before.items() if drive != gone and said["state"] == "up")
    began = time.monotonic()
    keys = [f"tiny/{at}" for at in range(count)]
    delete = lambda some: mesh.clients[1].delete_objects(
        Bucket=mesh.bucket(), Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
    )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(delete, [keys[at : at + 1000] for at in range(0, count, 1000)]))
    errors = sum(len(answer.get("Errors", [])) for answer in answers)
    deleted = time.monotonic() - began
    until("the garbage is gone", RECLAIMED, lambda: True if shards() <= base + (full - base) // 1000 else None)
    took = time.monotonic() - began
    print(
        f"{count} objects of {TINY} bytes: put in {put:.0f} s; with a drive away deleted in {deleted:.0f} s ({errors} errors), "
        f"their {full - base} shards on the other drives reclaimed {took:.0f} s after that began: {count / took:.0f} objects/s",
        flush=True,
    )
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True, metavar="BINARY")
    parser.add_argument("--gib", type=float, default=1.0, help="of objects")
    parser.add_argument("--rate", default="64MiB", help="of repair, a second and node")
    parser.add_argument("--objects", type=int, default=0, metavar="COUNT", help="to be deleted with a drive away")
    parser.add_argument("--folder", help="where the drives are to be; otherwise a temporary one")
    args = parser.parse_args()
    args.code, args.seed, args.drive = "4+2", 1, f"{max(2, int(args.gib * 1.5 * 3 / 9 * 3) + 1)}GiB"
    nodes, errors = [], 0
    with tempfile.TemporaryDirectory(prefix="mesh-rate-", dir=args.folder) as folder:
        try:
            mesh = Mesh(folder, args, nodes, kind=Roomy, prefix="rate")
            mesh.environment["MESH_ADMIN_IDENTITY"] = f"{nodes[0].folder}/admin.pem"
            mesh.whole()
            until("all drives are up", READY, lambda: True if len(drives(mesh)) == 9 else None)
            until("all is laid out", READY, lambda: at_home(mesh))
            count = int(args.gib * (1 << 30) / LARGE)
            took = fill(mesh, count, LARGE, "large")
            print(f"{count} objects of 4 MiB put in {took:.0f} s; repair at most {args.rate}/s a node", flush=True)
            client = Client(mesh)
            time.sleep(QUIET + 512 / PACE)
            client.since()
            time.sleep(QUIET)
            lose(mesh, client)
            client.stop.set()
            client.thread.join()
            client.pool.shutdown()
            errors += len(client.failed)
            for failure in client.failed[:10]:
                print(f"  failed: {failure}", flush=True)
            if args.objects:
                errors += reclaim(mesh, args.objects)
        finally:
            for node in nodes:
                node.end()
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
