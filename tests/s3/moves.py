#!/usr/bin/env python3
"""Moves chains to an emulated DPU and back, again and again, under the load of a real S3 client.

    source DIR/dev.env          # of `mesh dev --dpus 1`
    moves.py --cycles 100 [--clients 4] [--bytes 65536] [--pause 20] [--mesh target/release/mesh]

One cycle: the chain of the front end's node runs on the DPU; the DPU's process is killed (SIGKILL), the chain runs on
the host again; `mesh dev` starts the process again after two seconds, and the chain moves to the DPU, live. All the time
every client puts objects, reads them back and compares every byte, without retries of its own.

Stdout: how long a request that was under way took, for the planned moves and for the losses, beside those that met
neither; and what the mesh says its moves took. The exit code is 1 if a request failed or a byte was wrong.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import boto3
from botocore.client import Config


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def line(name, values):
    print(
        f"{name:<44} n {len(values):>6}  p50 {percentile(values, 0.5):8.2f}  p90 {percentile(values, 0.9):8.2f}  "
        f"p99 {percentile(values, 0.99):8.2f}  max {max(values, default=float('nan')):8.2f} ms"
    )


class Client(threading.Thread):
    """Puts, reads back, compares; keeps (begin, end, what) of every request, in seconds of time.monotonic()."""

    def __init__(self, number, args, stop):
        super().__init__(daemon=True)
        self.number, self.args, self.stop = number, args, stop
        self.done, self.errors, self.wrong = [], [], []
        self.s3 = boto3.client(
            "s3", config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, read_timeout=60, connect_timeout=10)
        )

    def timed(self, what, call):
        began = time.monotonic()
        try:
            return call()
        finally:
            self.done.append((began, time.monotonic(), what))

    def run(self):
        bucket, turn = os.environ["MESH_BUCKET"], 0
        while not self.stop.is_set():
            turn += 1
            # A few hundred names: also objects of long ago are read again.
            key = f"moves/{self.number}/{turn % 97}"
            if self.stop.wait(self.args.pause / 1e3):
                break
            body = hashlib.sha256(f"{self.number}.{turn}".encode()).digest() * (self.args.bytes // 32)
            try:
                self.timed("PUT", lambda: self.s3.put_object(Bucket=bucket, Key=key, Body=body))
                got = self.timed("GET", lambda: self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
                if got != body:
                    self.wrong.append(key)
            except Exception as error:  # noqa: BLE001: any failure at the client counts
                self.errors.append(f"{time.strftime('%H:%M:%S')} {key}: {error}")


class Mesh:
    def __init__(self, program):
        self.program = program

    def ask(self, *args):
        return subprocess.run([self.program, *args], check=True, capture_output=True, text=True).stdout

    def chain_at(self, chain):
        """Where a chain runs; where its last stages run, if it is split."""
        running = json.loads(self.ask("actors", "--json"))
        at = {actor["id"]: actor["node"] for actor in running if actor["phase"] == "running"}
        return at.get(chain.replace("chain", "tail", 1), at.get(chain))

    def dpu(self):
        found = re.search(r"(node-\d+) of .* pid (\d+)", self.ask("dpu", "list"))
        return (found[1], int(found[2])) if found else (None, None)

    def wait(self, what, condition, patience=60):
        until = time.monotonic() + patience
        while time.monotonic() < until:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        sys.exit(f"it did not happen within {patience} s: {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=65536)
    parser.add_argument("--pause", type=float, default=0, metavar="MS", help="of each client between two objects")
    parser.add_argument("--chain", default="chain-1-1")
    parser.add_argument("--mesh", default="mesh")
    parser.add_argument("--planned", action="store_true", help="no losses: move it to and fro with `mesh move`")
    args = parser.parse_args()
    mesh, stop = Mesh(args.mesh), threading.Event()

    dpu, _ = mesh.wait("a DPU", lambda: mesh.dpu() if mesh.dpu()[0] else None)
    mesh.wait("the chain on the DPU", lambda: mesh.chain_at(args.chain) == dpu)
    host = "node-" + args.chain.rsplit("-", 1)[1]
    known = len(mesh.ask("watch", "--once").splitlines())
    clients = [Client(number, args, stop) for number in range(args.clients)]
    for client in clients:
        client.start()
    began = time.monotonic()
    offset = time.time() - began
    time.sleep(3)
    losses, back = [], []
    for cycle in range(args.cycles):
        if args.planned:
            mesh.ask("move", args.chain, host)
            mesh.ask("move", args.chain, dpu)
        else:
            _, pid = mesh.wait("the DPU's process", lambda: mesh.dpu() if mesh.dpu()[1] else None)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            mesh.wait("the chain on the host", lambda: mesh.chain_at(args.chain) == host)
            losses.append(killed)
            mesh.wait("the chain on the DPU again", lambda: mesh.chain_at(args.chain) == dpu)
            back.append(time.monotonic() - killed)
        if cycle % 10 == 9:
            errors = sum(len(client.errors) for client in clients)
            print(f"{cycle + 1} cycles, {errors} errors", file=sys.stderr)
    time.sleep(2)
    stop.set()
    for client in clients:
        client.join(120)
    spent = time.monotonic() - began

    # Of each move, from the mesh's own account: when it ended, how long it took, how long requests waited, the commit.
    moves = []
    midnight = time.time() // 86400 * 86400
    for text in mesh.ask("watch", "--once").splitlines()[known:]:
        found = re.match(
            r"(\d+):(\d+):([\d.]+) moved .* in ([\d.]+) ms: its requests waited ([\d.]+) ms of that, "
            r"the commit took ([\d.]+) ms",
            text,
        )
        if found:
            hours, minutes, seconds, took, waited, commit = map(float, found.groups())
            at = midnight + hours * 3600 + minutes * 60 + seconds - offset
            moves.append((at, took / 1e3, waited, commit))

    done = [one for client in clients for one in client.done]
    met = {"planned": [], "lost": [], "neither": []}
    # The longest request that was under way in a move, a move.
    longest = {"planned": {}, "lost": {}}
    for start, end, what in done:
        kind, which = "neither", None
        for at, took, waited, _ in moves:
            if start <= at and end >= at - max(took, 0.001):
                kind, which = "planned", at
        for at in losses:
            if start <= at + 1.0 and end >= at:
                kind, which = "lost", at
        met[kind].append((end - start) * 1e3)
        if which is not None:
            longest[kind][which] = max(longest[kind].get(which, 0), (end - start) * 1e3)
    errors = [error for client in clients for error in client.errors]
    wrong = [key for client in clients for key in client.wrong]
    print(f"{args.cycles} cycles in {spent:.0f} s, {len(done)} requests of {args.bytes} bytes by {args.clients} clients")
    line("requests that met neither", met["neither"])
    line("requests under way in a planned move", met["planned"])
    line("  the longest of each move", list(longest["planned"].values()))
    if losses:
        line("requests under way in the second of a loss", met["lost"])
        line("  the longest of each loss", list(longest["lost"].values()))
        line("from the loss until the chain is on the DPU again", [one * 1e3 for one in back])
    line("the mesh's own account: requests waited", [waited for _, _, waited, _ in moves])
    line("  without the commit", [waited - commit for _, _, waited, commit in moves])
    line("  the commit", [commit for *_, commit in moves])
    print(f"errors: {len(errors)}, wrong: {len(wrong)}")
    for error in (errors + wrong)[:10]:
        print("  " + error)
    return 1 if errors or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
