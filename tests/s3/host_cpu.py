#!/usr/bin/env python3
"""How much of the host's CPU time a DPU takes over, per GiB, from the operating system's own accounting.

    source DIR/dev.env          # of `mesh dev --dpus 1`, a release build on an idle machine
    host_cpu.py [--rounds 5] [--bytes 256M] [--object 4M] [--clients 4] [--mesh target/release/mesh]

One round: the chain of the front end's node runs on its host (`mesh prefer host-only`), then on the DPU (`mesh prefer
prefer-dpu`); in either place it is waited for, the idle mesh is measured, then clients put --bytes, then get and compare them
all. What a process has used is utime + stime of /proc/PID/stat, of all its threads, at the begin and the end: of the process
of `mesh dev`, in which all three hosts are, and of the DPU's own process. This client is a third process and is not counted.
In a mesh of one process a host (`mesh serve`) the host that the DPU is attached to is told apart besides: what the others do,
their drives and links, no DPU takes over.

A round in which the chain has not stayed is thrown away, told, and done again. What the idle mesh uses is measured before
each half for --idle seconds, subtracted for as long as the half took, and told beside.

Stdout: for PUT and GET and either place, CPU seconds per GiB of what the client stored or fetched, of the hosts and of the
DPU: the median and the spread over the rounds; then the part of the hosts' work that the DPU took over. Nothing is asserted
of it: the exit code is 1 if a request failed, a byte was wrong or the chain did not stay. An emulated DPU is held to its
share of the CPU (a cgroup) where that can be had: then it is slower, and its seconds are no fewer. They are seconds of this
machine's cores, not of a BlueField's.
"""

import argparse
import concurrent.futures
import json
import os
import re
import statistics
import subprocess
import sys
import time

import boto3
from botocore.client import Config

TICKS = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30
PLACES = (("host", "host-only"), ("dpu", "prefer-dpu"))


def size(text):
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"`{text}` is no size: write 4M or 256M")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


def cpu_seconds(pid):
    """What the process has used, all threads together; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The program's name, in parentheses, may have anything in it.
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_share(pid):
    """What the process may use of the CPU, as its cgroup says."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
        for _, names, path in groups:
            if "cpu" in names.split(","):
                files = [f"/sys/fs/cgroup/cpu{path}/cpu.cfs_{one}_us" for one in ("quota", "period")]
                quota, period = (int(open(file, encoding="ascii").read()) for file in files)
                return f"{quota / period:.2f} cores" if quota > 0 else "no limit"
        for _, names, path in groups:
            if not names:
                quota, period = open(f"/sys/fs/cgroup{path}/cpu.max", encoding="ascii").read().split()
                return f"{int(quota) / int(period):.2f} cores" if quota != "max" else "no limit"
    except (OSError, ValueError):
        pass
    return "not known"


class Mesh:
    def __init__(self, program, chain):
        self.program, self.chain = program, chain
        self.ingress = "node-" + chain.rsplit("-", 1)[1]

    def ask(self, *args):
        return subprocess.run([self.program, *args], check=True, capture_output=True, text=True).stdout

    def nodes(self):
        """The pids of the hosts by their ids, and (id, pid, what it stands for) of each DPU of the chain's host."""
        nodes = json.loads(self.ask("status", "--json"))["nodes"]
        hosts = {node["id"]: node["pid"] for node in nodes if node["kind"] == "host"}
        dpus = [node for node in nodes if node["attached_to"] == self.ingress and node["state"] == "up"]
        return hosts, [(node["id"], node["pid"], node["emulated"]) for node in dpus]

    def place(self):
        """(node, epoch) of the chain, by the newest epoch that a node runs it under."""
        actors = json.loads(self.ask("actors", "--json"))
        own = [one for one in actors if one["id"] == self.chain and one["phase"] == "running"]
        epoch, node = max(((one["epoch"], one["node"]) for one in own), default=(0, None))
        return node, epoch

    def put_chain(self, preference, node, patience=60):
        self.ask("prefer", preference)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            place = self.place()
            if place[0] == node:
                return place
            time.sleep(0.1)
        sys.exit(f"{self.chain} is not on {node} after {patience} s: it is on {place[0]}; `mesh plan` says why")


class Meter:
    """What groups of processes have used between two looks: the time, then a figure a group."""

    def __init__(self, groups):
        self.groups = groups

    def look(self):
        used = [[cpu_seconds(pid) for pid in group] for group in self.groups]
        if any(None in group for group in used):
            sys.exit("a process that was measured has ended")
        return time.monotonic(), *map(sum, used)

    def of(self, work):
        before = self.look()
        work()
        after = self.look()
        return tuple(late - early for early, late in zip(before, after))


class Load:
    """Clients that put and get the objects of one half of a round."""

    def __init__(self, args):
        self.args = args
        self.bucket = os.environ["MESH_BUCKET"]
        config = Config(
            retries={"max_attempts": 1, "mode": "standard"},
            max_pool_connections=args.clients,
            read_timeout=120,
            connect_timeout=10,
        )
        self.s3 = boto3.client("s3", config=config)
        self.clients = concurrent.futures.ThreadPoolExecutor(args.clients)
        self.random = os.urandom(args.object)

    def body(self, key):
        head = key.encode().ljust(64)
        return head[: self.args.object] + self.random[64:]

    def put(self, key):
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=self.body(key))

    def get(self, key):
        if self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() != self.body(key):
            raise ValueError(f"{key} came back with other bytes")

    def delete(self, key):
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def all(self, what, keys):
        for _ in self.clients.map(what, keys):
            pass


def half(args, mesh, load, meter, preference, node, keys):
    """One place: (PUT, GET, idle), each what the meter says; None if the chain has not stayed."""
    place = mesh.put_chain(preference, node)
    idle = meter.of(lambda: time.sleep(args.idle))
    put = meter.of(lambda: load.all(load.put, keys))
    get = meter.of(lambda: load.all(load.get, keys))
    stayed = mesh.place() == place
    return (put, get, idle) if stayed else None


def per_gib(used, idle, which, count):
    """CPU seconds per GiB beyond what the idle mesh would have used in that time."""
    return (used[which] - idle[which] / idle[0] * used[0]) * GIB / count


def spread(values, form):
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=size, default=size("256M"), help="put and got in one place in one round")
    parser.add_argument("--object", type=size, default=size("4M"))
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--idle", type=float, default=3.0, help="seconds")
    parser.add_argument("--again", type=int, default=3, help="rounds that may be thrown away")
    parser.add_argument("--chain", default="chain-1-1", help="the front end's: only its host's DPU counts")
    parser.add_argument("--mesh", default="mesh")
    args = parser.parse_args()
    objects = max(1, args.bytes // args.object)
    count = objects * args.object

    mesh, load = Mesh(args.mesh, args.chain), Load(args)
    hosts, dpus = mesh.nodes()
    if len(dpus) != 1:
        sys.exit(f"one DPU of {mesh.ingress} is needed, and {len(dpus)} are up: mesh dev --dpus 1")
    dpu, pid, kind = dpus[0]
    # In `mesh dev` all hosts are one process. Where each has its own, the one with the DPU is told apart.
    measured = {"all hosts": sorted(set(hosts.values())), dpu: [pid]}
    if list(hosts.values()).count(hosts[mesh.ingress]) == 1:
        measured[mesh.ingress] = [hosts[mesh.ingress]]
    meter = Meter(list(measured.values()))
    what = f"emulated {kind}" if kind else "not emulated"
    print(
        f"{os.cpu_count()} cores; hosts: pid {', '.join(map(str, measured['all hosts']))}; {dpu}: pid {pid}, {what}, "
        f"its share: {cpu_share(pid)}"
    )
    print(
        f"{args.rounds} rounds of {objects} objects of {args.object} bytes in each place, {args.clients} clients",
        flush=True,
    )

    rounds, keys, again = [], [], args.again
    # Nothing is counted of what is done once: connections, first allocations, the first move.
    warm = [f"cpu/{os.getpid()}/warm/{at}" for at in range(min(objects, 8))]
    for where, preference in PLACES:
        mesh.put_chain(preference, dpu if where == "dpu" else mesh.ingress)
        load.all(load.put, warm)
        load.all(load.get, warm)
    keys += warm
    while len(rounds) < args.rounds:
        result = {}
        for where, preference in PLACES:
            own = [f"cpu/{os.getpid()}/{len(rounds)}.{again}/{where}/{at}" for at in range(objects)]
            keys += own
            node = dpu if where == "dpu" else mesh.ingress
            result[where] = half(args, mesh, load, meter, preference, node, own)
        if None in result.values():
            print(f"a round is thrown away: {args.chain} has not stayed where it was", file=sys.stderr)
            again -= 1
            if again < 0:
                sys.exit("too many rounds were thrown away; is the machine busy?")
            continue
        rounds.append(result)
        hosts_took = [result[where][0][1] * GIB / count for where, _ in PLACES]
        print(f"round {len(rounds)}: PUT {hosts_took[0]:.2f} and {hosts_took[1]:.2f} s/GiB of the hosts", file=sys.stderr)
    mesh.ask("prefer", "prefer-dpu")
    load.all(load.delete, keys)

    for at, name in enumerate(("PUT", "GET")):
        for where, preference in PLACES:
            rate = [count / result[where][at][0] / (1 << 20) for result in rounds]
            print(f"{name} {preference:<10} {spread(rate, '{:.0f}')} MiB/s")
        for which, group in enumerate(measured, start=1):
            taken = {}
            for where, preference in PLACES:
                halves = [result[where] for result in rounds]
                taken[where] = [per_gib(half[at], half[2], which, count) for half in halves]
                print(f"{name} {preference:<10} {group:<9} {spread(taken[where], '{:.3f}')} CPU s/GiB")
            if group != dpu:
                parts = [100 * (1 - with_dpu / without) for without, with_dpu in zip(taken["host"], taken["dpu"])]
                part = 100 * (1 - statistics.median(taken["dpu"]) / statistics.median(taken["host"]))
                print(f"{name} moved off  {group:<9} {part:.1f} % of medians; round by round {spread(parts, '{:.1f}')} %")
    for where, preference in PLACES:
        idle = [result[where][2] for result in rounds]
        shown = [f"{group} {spread([one[at] / one[0] for one in idle], '{:.3f}')}" for at, group in enumerate(measured, 1)]
        print(f"idle {preference:<10} {', '.join(shown)} CPU s/s: subtracted above")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)}: {error.stderr}")
