#!/usr/bin/env python3
"""What only real processes have shown: cuts, pauses, restarts and joins of a mesh of hosts and a DPU, under clients that
retry nothing.

    faults.py --mesh target/release/mesh [--cases restarts,cuts,blind,leaders,joins,pauses] [--cycles 100] [--clients 4]

Three hosts and an emulated DPU of the first, made with `init`, `invite` and `join` as README shows, each a `mesh serve` of
its own: what a node knows of the others at its start is the one address of its invitation. DPUs are preferred. All the
time clients put objects through all three hosts, read them back and compare every byte. The cases:

- restarts: the DPU is killed and started again 0.1, 0.3 and 2 s later, `--cycles` times; each time its host's chain has to
  come back to it.
- cuts: the datagrams between a host and its DPU are dropped, both ways and each way alone, while another host leads and
  sees both. The chain has to come to the host, and back to the DPU when the cut has ended.
- blind: the datagrams between the DPU and all hosts but its own are dropped. The chain has to come home, and back.
- leaders: whichever host leads is killed and started again 0.3 s later, before anybody has missed it. Somebody has to lead
  again long before its lease would be over.
- pauses: the leader, the DPU's host and both are stopped (SIGSTOP) for half a second. Nothing may move.
- joins: a fourth host joins by way of a first that does not lead.

Stdout: a line a step, then the counts. The exit code is 1 if a request failed, an object was lost or wrong, or a step did
not come to its end. Runs in a network namespace of its own, as root, with nftables and boto3; without, it prints SKIPPED.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "power"))

from load import Load  # noqa: E402: found only now
from nodes import READY, Fault, Mesh, Node, free_ports, until  # noqa: E402: likewise

# In the environment of the process that is in a namespace of its own.
INSIDE = "MESH_FAULTS_INSIDE"
DPU, FOURTH = 11, 4
# Seconds: after which a DPU that is killed is started again, in turn; how long a cut lasts once the chain has come to
# the host; how long a process is stopped, and what it then has until it is looked at; what a step may take.
DOWN, CUT, PAUSE, CALM, STEP = (0.1, 0.3, 2.0), 10, 0.5, 3, 60
# Leaders that are killed; how long each is away; how long a request may take then. A lease is six seconds long.
LEADERS, AWAY, LED = 6, 0.3, 4.5
CHAIN, CONTROL = "chain-1-1", "group-0"


class Dpu(Node):
    """An emulated DPU: no drives, no front end."""

    def arguments(self):
        return ["--dir", self.folder, "--address", self.address]

    def configure(self):
        with open(f"{self.folder}/mesh.toml", "a") as file:
            file.write('\n[dpu]\nattached_to = 1\nemulated = "bf3"\n')


class Cut:
    """Datagrams that one node sends to another are dropped, and counted."""

    def __init__(self, *ways):
        self.ways = ways

    def __enter__(self):
        nft("add", "table", "inet", "faults")
        nft("add", "chain", "inet", "faults", "in", "{ type filter hook input priority 0; }")
        for source, target in self.ways:
            ports = (source.address.rsplit(":", 1)[1], target.address.rsplit(":", 1)[1])
            nft("add", "rule", "inet", "faults", "in", "udp", "sport", ports[0], "udp", "dport", ports[1], "counter", "drop")
        return self

    def dropped(self):
        """How many datagrams, a way."""
        rules = json.loads(nft("--json", "list", "table", "inet", "faults"))["nftables"]
        parts = [part for rule in rules if "rule" in rule for part in rule["rule"]["expr"]]
        return [part["counter"]["packets"] for part in parts if "counter" in part]

    def __exit__(self, *_):
        nft("delete", "table", "inet", "faults")


def nft(*command):
    return subprocess.run(("nft", *command), check=True, capture_output=True, text=True).stdout


class Faults:
    def __init__(self, mesh, load, args):
        self.mesh, self.load, self.args = mesh, load, args
        self.first, self.second, self.third, self.dpu = mesh.nodes[:4]

    def say(self, text):
        slowest = self.load.slowest_since()
        print(f"{text}; the slowest request took {slowest:.1f} s, {len(self.load.failed)} failed so far", flush=True)

    def status(self, node):
        return json.loads(self.mesh.ask(node, "status", "--json"))

    def all_up(self, *nodes):
        """Every node sees every other, and takes what it is asked."""
        for node in nodes or self.mesh.nodes[:3]:
            status = self.status(node)
            bad = [f"{one['id']} {one['state']} {one['missing']}" for one in status["nodes"] if one["state"] != "up" or one["missing"]]
            bad += [f"{one['id']} {one['state']}" for one in status["drives"] if one["state"] != "up"]
            if bad or len(status["nodes"]) != len(self.mesh.nodes):
                raise RuntimeError(f"node-{node.number} sees {bad} of {len(status['nodes'])}")
        return "up"

    def chain(self, at=None, asked=None):
        """Where the chain of the DPU's host runs, and under which epoch, as who is asked says, else the second host; with
        `at`: nothing as long as it is not there."""
        actors = json.loads(self.mesh.ask(asked or self.second, "actors", "--json"))
        found = [(one["node"], one["epoch"]) for one in actors if one["id"] == CHAIN and one["phase"] == "running"]
        # While it moves there may be none, or two.
        found.sort(key=lambda one: one[1])
        if not found or at is not None and found[-1][0] != f"node-{at.number}":
            raise RuntimeError(f"{CHAIN} runs at {found}")
        return found[-1]

    def leader(self):
        leaders = {group["id"]: group["leader"] for group in self.status(self.second)["groups"]}
        if leaders.get(CONTROL) is None:
            raise RuntimeError("nobody leads")
        return leaders[CONTROL]

    def led_by_another(self):
        """Another than the DPU's host leads the control group: a host that is told to stop gives away what it leads. Who is
        killed and is back at once may well be the first to stand for election."""
        while until("somebody leads", STEP, self.leader) == "node-1":
            self.load.leave(self.first.number)
            self.first.leave()
            self.first.serve()
            until("all are up again", STEP, self.all_up)
            self.load.enter(self.first.number)
            self.load.slowest_since()

    def restarts(self):
        until("the chain is on the DPU", STEP, lambda: self.chain(self.dpu))
        began, slow = time.monotonic(), 0.0
        for cycle in range(self.args.cycles):
            self.dpu.kill()
            time.sleep(DOWN[cycle % len(DOWN)])
            self.dpu.serve()
            killed = time.monotonic()

            # The new process says so itself, and others agree: what they last heard may be of the one before, and the epoch
            # is the same if nobody has missed it.
            def back():
                found = self.chain(self.dpu, asked=self.dpu)
                return found if found == self.chain(self.dpu) else None

            until(f"the chain is on the DPU after restart {cycle + 1}", STEP, back)
            slow = max(slow, time.monotonic() - killed)
            if cycle % 10 == 9:
                self.say(f"restarts: {cycle + 1}, the chain back within {slow:.1f} s")
        self.say(f"restarts: {self.args.cycles} in {time.monotonic() - began:.0f} s")

    def cuts(self):
        self.led_by_another()
        host, dpu = self.first, self.dpu
        for name, *ways in (
            ("between the host and its DPU", (host, dpu), (dpu, host)),
            ("from the host to its DPU", (host, dpu)),
            ("from the DPU to its host", (dpu, host)),
        ):
            until("the chain is on the DPU", STEP, lambda: self.chain(dpu))
            until("all are up", STEP, self.all_up)
            led, done = self.leader(), self.load.done
            self.load.slowest_since()
            with Cut(*ways) as cut:
                began = time.monotonic()
                until(f"the chain is on the host, cut {name}", STEP, lambda: self.chain(host))
                took = time.monotonic() - began
                time.sleep(CUT)
                node, _ = self.chain()
                dropped = cut.dropped()
            if not all(dropped) or led == "node-1" or self.leader() == "node-1" or node != "node-1":
                raise Fault(f"no such case: {led} led, {self.leader()} leads, {dropped} datagrams dropped, the chain at {node}")
            self.say(f"cuts: {name}: the chain on the host after {took:.1f} s, {self.load.done - done} requests meanwhile, {dropped} datagrams dropped")
            began = time.monotonic()
            until("the chain is on the DPU again", STEP, lambda: self.chain(dpu))
            self.say(f"cuts: {name} no more: the chain on the DPU after {time.monotonic() - began:.1f} s")

    def blind(self):
        dpu, others = self.dpu, (self.second, self.third)
        until("the chain is on the DPU", STEP, lambda: self.chain(dpu))
        until("all are up", STEP, self.all_up)
        done = self.load.done
        self.load.slowest_since()
        with Cut(*((dpu, other) for other in others), *((other, dpu) for other in others)) as cut:
            began = time.monotonic()
            until("the chain is on the host of a DPU that sees nobody else", STEP, lambda: self.chain(self.first))
            took = time.monotonic() - began
            time.sleep(CUT)
            node, _ = self.chain()
            dropped = cut.dropped()
        if not all(dropped) or node != "node-1":
            raise Fault(f"no such case: {dropped} datagrams dropped, the chain at {node}")
        self.say(f"blind: the chain on the host after {took:.1f} s, {self.load.done - done} requests meanwhile, {dropped} datagrams dropped")
        began = time.monotonic()
        until("the chain is on the DPU again", STEP, lambda: self.chain(dpu))
        self.say(f"blind no more: the chain on the DPU after {time.monotonic() - began:.1f} s")

    def leaders(self):
        for _ in range(LEADERS):
            until("all are up", STEP, self.all_up)
            led = self.leader()
            leader = next(node for node in self.mesh.nodes if f"node-{node.number}" == led)
            self.load.leave(leader.number)
            self.load.slowest_since()
            leader.kill()
            time.sleep(AWAY)
            leader.serve()
            until("all are up again", STEP, self.all_up)
            slowest = self.load.slowest_since()
            self.load.enter(leader.number)
            if slowest > LED:
                raise Fault(f"after node-{leader.number} was away for {AWAY} s a request took {slowest:.1f} s")
            self.say(f"leaders: {led} away for {AWAY} s; a request took {slowest:.1f} s; {self.leader()} leads")

    def pauses(self):
        until("all are up", STEP, self.all_up)
        for _ in range(3):
            leader = next(node for node in self.mesh.nodes if f"node-{node.number}" == self.leader())
            for stopped in ([leader], [self.first], list({leader, self.first}), [self.first, self.second, self.third, self.dpu]):
                before = until("the chain is on the DPU", STEP, lambda: self.chain(self.dpu))
                for node in stopped:
                    node.stop()
                time.sleep(PAUSE)
                for node in stopped:
                    node.go_on()
                time.sleep(CALM)
                after = until("the chain runs", STEP, self.chain)
                names = ", ".join(f"node-{node.number}" for node in stopped)
                if after != before:
                    raise Fault(f"{names} stopped for {PAUSE} s: the chain went from {before} to {after}")
                self.say(f"pauses: {names} for {PAUSE} s: nothing has moved")

    def joins(self):
        self.led_by_another()
        address, s3 = (f"127.0.0.1:{port}" for port in free_ports(2))
        fourth = Node(FOURTH, self.mesh.folder, self.mesh.args, address, s3)
        self.mesh.nodes.append(fourth)
        began = time.monotonic()
        self.mesh.join(fourth)
        until("the fourth is a member", STEP, lambda: self.all_up(self.second, fourth))
        self.say(f"joins: node-{FOURTH} by way of node-1, while {self.leader()} leads: up after {time.monotonic() - began:.1f} s")


def inside():
    """This script again, in a network namespace of its own."""
    lacks = [name for name in ("unshare", "ip", "nft") if shutil.which(name) is None]
    if os.geteuid() != 0 or lacks:
        print(f"SKIPPED: it needs root, and {', '.join(lacks) or 'nothing else'}")
        sys.exit(0)
    os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True, metavar="FILE", help="the program")
    parser.add_argument("--cases", default="restarts,cuts,blind,leaders,pauses,joins", help="with commas between them")
    parser.add_argument("--cycles", type=int, default=100, help="of restarts")
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    if INSIDE not in os.environ:
        inside()
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    args.code, args.seed = "2+1", 1

    nodes, fault = [], None
    with tempfile.TemporaryDirectory(prefix="mesh-faults-") as folder:
        try:
            mesh = Mesh(folder, args, nodes, prefix="faults")
            mesh.whole()
            dpu = Dpu(DPU, folder, args, f"127.0.0.1:{free_ports(1)[0]}", None)
            nodes.append(dpu)
            mesh.join(dpu)
            mesh.ask(nodes[0], "prefer", "prefer-dpu")
            load = Load(mesh, args.clients)
            faults = Faults(mesh, load, args)
            try:
                until("all are up", READY, faults.all_up)
                for case in args.cases.split(","):
                    getattr(faults, case)()
            except (Fault, TimeoutError, RuntimeError, subprocess.TimeoutExpired) as error:
                fault = error
            return 0 if load.conclude(fault) else 1
        finally:
            for node in nodes:
                node.end()


if __name__ == "__main__":
    sys.exit(main())
