#!/usr/bin/env python3
"""Damages the metadata of one node while another one is behind, and looks for every object that was acknowledged.

    flip.py --mesh target/release/mesh [--flips 60] [--cuts 20] [--seed 1] [--clients 4]

Three nodes of two drives each take small objects all the time. In a round, one node is stopped or killed and falls
behind; then the node whose turn it is, which has all that was acknowledged since, is killed, and its metadata are
damaged: one bit of one file is flipped, or one file is cut at some length. File and place are random, weighted by size;
every third round takes the kind of file that was hit least, and every fourth flip is aimed at the newest entry. The third
node, the only one left that has everything, is stopped or killed too, so that nobody helps; and the damaged one is started.

Either it names the damage, in its log and in `mesh status`: then one of the others comes back, by turns the one that was
behind, with which whoever has forgotten would have a majority, and the one that has everything. What was acknowledged is
not said to be absent; and when the last one is back too, the node is rebuilt, votes again, and has set aside what it had.
Or it opens as it was: then it has to serve everything together with the one that was behind, without the third. In both
cases the mesh has to be whole in the end.

Each object that was acknowledged in a round is read and compared byte for byte, and a sample of the older ones; all are
compared by size and hash in a listing after each round, and read after the last. Stdout: a line a round, and totals at
the end; the exit code is 1 if an object was lost or wrong, damage was neither named nor without effect, or the mesh did
not come back. What a failed round damaged is kept beside the logs. Without boto3 it prints SKIPPED.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from nodes import NODES, SMALL, Fault, Mesh, Node, run, says_absent, steady, until

# What the log says of damage.
DAMAGED = "the metadata store is damaged"
# Seconds.
FELL_BEHIND, SAYS, SERVES, REBUILT, RESTORED, WINDOW, SHORT = 60, 60, 60, 60, 15, 1.0, 0.8
# Three heartbeats, the least there is.
SILENCE = "1500ms"
# Between two objects of a client: a round is not to leave many behind, for all are compared after each.
PAUSE = 0.05
# Acknowledged while one node is behind, in a round.
BEHIND_OBJECTS = 20
OLDER_SAMPLE = 50
# A cut takes at most this much in every other round, so that only what is newest is gone.
TAIL_BYTES = 64 << 10
GROUPS = 2


class InFolder(Node):
    """A node in plain folders, and its metadata."""

    def configure(self):
        """Who is gone is missed sooner than by default: that is what most of a round waits for."""
        path = f"{self.folder}/mesh.toml"
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(re.sub(r"(?m)^silence = .*$", f'silence = "{SILENCE}"', text))

    def metadata(self):
        return f"{self.folder}/node-{self.number}/metadata"

    def files(self):
        """The files of the metadata in use, by kind."""
        kinds = {}
        for root, _, names in os.walk(self.metadata()):
            for name in names:
                path = os.path.join(root, name)
                inside = os.path.relpath(path, self.metadata())
                if ".damaged-" not in inside and os.path.getsize(path) > 0:
                    kinds.setdefault(re.sub(r"(snap|blobs/).*", r"\1", inside), []).append(path)
        return kinds

    def set_aside(self):
        return [name for name in os.listdir(self.metadata()) if ".damaged-" in name]

    def logged(self, offset):
        with open(self.log_path, "rb") as log:
            log.seek(offset)
            return re.sub(r"\x1b\[[0-9;]*m", "", log.read().decode(errors="replace"))


class Behind:
    """A node that is not there for a while: stopped, or killed."""

    def __init__(self, node, killed):
        self.node, self.killed = node, killed
        node.kill() if killed else node.stop()

    def back(self):
        self.node.serve() if self.killed else self.node.go_on()

    def __str__(self):
        return f"{self.node.number} {'killed' if self.killed else 'stopped'}"


class Damage:
    """Which damage comes to which file."""

    def __init__(self, rng):
        self.rng, self.hits, self.turns = rng, {}, {"flip": 0, "cut": 0}

    def make(self, node, how, newest):
        """Damages one file; says what was done."""
        self.turns[how] += 1
        turn, kinds = self.turns[how], node.files()
        if turn % 3 == 0:
            kind = min(sorted(kinds), key=lambda kind: self.hits.get((how, kind), 0))
            paths = kinds[kind]
        else:
            paths = [path for kind in sorted(kinds) for path in kinds[kind]]
        path = self.rng.choices(paths, [os.path.getsize(path) for path in paths])[0]
        what = self.flip(path, turn, newest) if how == "flip" else self.cut(path, turn)
        kind = next(kind for kind, paths in kinds.items() if path in paths)
        self.hits[how, kind] = self.hits.get((how, kind), 0) + 1
        return f"{kind} {what}"

    def flip(self, path, turn, newest):
        with open(path, "r+b") as file:
            content = file.read()
            place, aimed = self.rng.randrange(len(content)), ""
            if turn % 4 == 0 and content.rfind(newest) >= 0:
                place, aimed = content.rfind(newest) + self.rng.randrange(len(newest)), ", the newest entry"
            bit = self.rng.randrange(8)
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << bit]))
        return f"bit {bit} of byte {place} of {len(content)}{aimed}"

    def cut(self, path, turn):
        size = os.path.getsize(path)
        least = max(0, size - TAIL_BYTES) if turn % 2 == 0 else 0
        length = self.rng.randrange(least, size)
        os.truncate(path, length)
        return f"{size} bytes to {length}"


class Rounds:
    """The mesh over all rounds, and what came of them."""

    def __init__(self, mesh, rng, folder):
        self.mesh, self.rng, self.folder = mesh, rng, folder
        self.damage, self.older = Damage(rng), set()
        self.counts = dict.fromkeys(("named", "unchanged", "failed"), 0)
        self.hasty = {node.number: mesh.client(node, SHORT) for node in mesh.nodes}

    def status(self, node):
        """What `mesh status` shows of a node when that node is asked, also while it does not take data."""
        asked = ("--connect", node.address, "--identity", self.mesh.environment["MESH_IDENTITY"])
        said = run(self.mesh.args.mesh, "status", "--json", *asked, wanted=False)
        return json.loads(said.stdout)

    def troubles(self, node):
        told = [trouble for group in self.status(node)["groups"] for trouble in group.get("troubles", [])]
        return [trouble["why"] for trouble in told if trouble["node"] == f"node-{node.number}"]

    def voters(self, offsets):
        """The replicas of each group that were said to vote since, by whoever led."""
        groups = {}
        for node, offset in zip(self.mesh.nodes, offsets):
            for line in node.logged(offset).splitlines():
                if "the voters of a metadata group changed" in line:
                    group = re.search(r"group-\d+", line).group()
                    groups.setdefault(group, set()).update(re.findall(r"node-\d+/[0-9a-f]+", line))
        return groups

    def whole_listing(self, number):
        """What was acknowledged and is not as it was in a listing by this node."""
        promised, seen = dict(self.mesh.acknowledged), {}
        pages = self.mesh.clients[number].get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.mesh.bucket(), Prefix=f"{self.mesh.prefix}/"):
            for entry in page.get("Contents", []):
                seen[entry["Key"]] = (entry["Size"], entry["ETag"].strip('"'))
        wanted = lambda body: (len(body), hashlib.md5(body).hexdigest())
        return [key for key, body in promised.items() if seen.get(key) != wanted(body)]

    def listing(self, number):
        """The same, asked until there is an answer; what is missing is lost."""
        missing = until("a listing", SERVES, lambda: self.whole_listing(number))
        if missing:
            print(f"  not as they were in a listing by node {number}: {len(missing)}, {missing[0]} first", flush=True)
        for key in missing:
            self.mesh.lost.add(key)
            self.mesh.acknowledged.pop(key, None)
        return len(missing)

    def nobody_forgot(self, seconds):
        """What was acknowledged is read, or there is no answer; it is never said to be absent."""
        end = time.monotonic() + seconds
        newest = list(self.mesh.acknowledged)[-BEHIND_OBJECTS:]
        while time.monotonic() < end:
            for number in self.mesh.up:
                key = self.rng.choice(newest)
                try:
                    self.hasty[number].get_object(Bucket=self.mesh.bucket(), Key=key)["Body"].read()
                except Exception as error:  # noqa: BLE001: no answer is as good as any, but for one
                    if says_absent(error):
                        self.mesh.lost.add(key)
                        raise Fault(f"node {number} said that {key} is absent") from error
            time.sleep(0.1)

    def opened(self, node, offset):
        """What a node that was started says of its metadata: why they are damaged, or None."""

        def ask():
            logged = node.logged(offset)
            if DAMAGED in logged:
                return next(line for line in logged.splitlines() if DAMAGED in line)
            if node.child.poll() is not None:
                raise Fault(f"node {node.number} ended: {logged.strip().splitlines()[-1:]}")
            return "as it was" if "listening" in logged else None

        said = until(f"node {node.number} opens", SAYS, ask)
        return None if said == "as it was" else said

    def serves(self, node, offset):
        """A node that opened serves everything, with who was behind. Says what is damaged if it turns out so."""

        def ask():
            if DAMAGED in node.logged(offset):
                return self.opened(node, offset)
            key = f"probe/{node.number}"
            self.hasty[node.number].put_object(Bucket=self.mesh.bucket(), Key=key, Body=b"probe")
            return "serves"

        said = until(f"node {node.number} serves without the third", SERVES, ask)
        if said == "serves":
            if self.listing(node.number):
                raise Fault(f"node {node.number} opened as if nothing were, and is not as it was")
            return None
        return said

    def one(self, number, how):
        """A round: what was damaged, and what came of it."""
        mesh, rng = self.mesh, self.rng
        nodes = list(mesh.nodes)
        damaged = nodes.pop(number % len(nodes))
        rng.shuffle(nodes)
        late, third = nodes
        starts = [os.path.getsize(node.log_path) for node in mesh.nodes]
        known = set().union(*self.voters([0, 0, 0]).values())
        stop, away, copy = threading.Event(), [], f"{self.folder}/round-{number}"
        told = {"what": "nothing", "late": "", "third": "", "outcome": "failed", "why": ""}
        with concurrent.futures.ThreadPoolExecutor(mesh.args.clients + 1) as pool:
            try:
                mesh.up = (damaged.number, third.number)
                away.append(Behind(late, rng.random() < 0.5))
                told["late"] = away[0]
                before = len(mesh.acknowledged)
                for _ in range(mesh.args.clients):
                    pool.submit(steady, mesh, stop, PAUSE)
                enough = lambda: True if len(mesh.acknowledged) >= before + BEHIND_OBJECTS else None
                until(f"two nodes take objects without node {late.number}", FELL_BEHIND, enough)
                damaged.kill()
                away.append(Behind(third, rng.random() < 0.5))
                told["third"] = away[1]
                shutil.copytree(damaged.metadata(), f"{copy}/before")
                newest = list(mesh.acknowledged)[-1].encode()
                told["what"] = self.damage.make(damaged, how, newest)
                shutil.copytree(damaged.metadata(), f"{copy}/after")
                offset = os.path.getsize(damaged.log_path)
                damaged.serve()
                why = self.opened(damaged, offset)
                first = away.pop(0 if why is None or number % 2 == 0 else 1)
                mesh.up = (damaged.number, first.node.number)
                first.back()
                if why is None:
                    why = self.serves(damaged, offset)
                if why is not None:
                    told["why"] = why
                    window = pool.submit(self.nobody_forgot, WINDOW)
                    # One is away still, so it is not rebuilt yet.
                    until("`mesh status` names the damage", SAYS, lambda: self.troubles(damaged) or None)
                    window.result()
                while away:
                    away.pop().back()
                mesh.up = NODES
                if why is not None:
                    self.rebuilt(damaged, starts, known)
                mesh.whole()
                told["outcome"] = "unchanged" if why is None else "named"
            except (Fault, TimeoutError) as fault:
                told["why"] = f"{fault}"
                print(f"  {fault}", flush=True)
                self.restore(damaged, copy, away)
            finally:
                stop.set()
                mesh.up = NODES
        self.counts[told["outcome"]] += 1
        if told["outcome"] != "failed":
            shutil.rmtree(copy)
        return damaged, told

    def rebuilt(self, node, starts, known):
        """The others have taken the node in again, under new numbers."""
        until(f"node {node.number} sets its metadata aside", REBUILT, lambda: node.set_aside() or None)
        own = lambda replica: replica.startswith(f"node-{node.number}/") and replica not in known
        votes = lambda: sum(any(map(own, replicas)) for replicas in self.voters(starts).values()) >= GROUPS
        until(f"node {node.number} votes again", REBUILT, lambda: True if votes() else None)
        until("nothing is in trouble", REBUILT, lambda: True if not self.troubles(node) else None)
        # It keeps a few of those at most, for somebody to look at.
        for name in node.set_aside():
            path = f"{node.metadata()}/{name}"
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def restore(self, node, copy, away):
        """After a failed round: if all three do not get on by themselves, the node gets back what it had before."""
        while away:
            away.pop().back()
        self.mesh.up = NODES
        try:
            self.mesh.whole(RESTORED)
        except TimeoutError:
            node.kill()
            shutil.move(node.metadata(), f"{copy}/left")
            shutil.copytree(f"{copy}/before", node.metadata())
            node.serve()
            self.mesh.whole()

    def look(self):
        """Reads what was acknowledged since the last time, and some of the rest; says how many."""
        mesh = self.mesh
        promised = dict(mesh.acknowledged)
        newer = [key for key in promised if key not in self.older]
        older = sorted(self.older & promised.keys())
        asked = [*newer, *self.rng.sample(older, min(OLDER_SAMPLE, len(older)))]
        mesh.check({key: promised[key] for key in asked}, mesh.uncertain)
        self.listing(self.rng.choice(NODES))
        self.older, mesh.uncertain = set(promised), {}
        return len(asked)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True, help="the program")
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4, help="that put at once")
    parser.add_argument("--seed", type=int, default=1, help="of what is damaged, and how")
    parser.add_argument("--folder", help="where the nodes live; default: a temporary folder")
    parser.add_argument("--keep-logs", action="store_true", help="leave everything behind")
    args = parser.parse_args()
    args.mesh, args.code = os.path.abspath(args.mesh), "2+1"
    rng = random.Random(args.seed)
    plan = ["flip"] * args.flips + ["cut"] * args.cuts
    rng.shuffle(plan)
    folder = tempfile.mkdtemp(prefix="mesh-flip-", dir=args.folder)
    nodes, code, rounds = [], 1, None
    try:
        mesh = Mesh(folder, args, nodes, InFolder, "flip", SMALL)
        mesh.whole()
        rounds = Rounds(mesh, rng, folder)
        three = lambda: [len(voters) for voters in rounds.voters([0, 0, 0]).values()] == [len(NODES)] * GROUPS
        until("all three vote", REBUILT, lambda: True if three() else None)
        for number, how in enumerate(plan, 1):
            began, lost_before = time.monotonic(), mesh.missing()
            damaged, told = rounds.one(number, how)
            looked_for = rounds.look()
            why = re.sub(r"^.*?(why=|error=)", "", str(told["why"]))[:160]
            print(
                f"round {number}: {how} at node {damaged.number}, {told['what']}; behind: {told['late']}, away: {told['third']}; "
                f"{told['outcome']}{': ' + why if why else ''}; {looked_for} looked for, lost {mesh.missing() - lost_before}, "
                f"{time.monotonic() - began:.1f} s",
                flush=True,
            )
        mesh.check(dict(mesh.acknowledged), {})
        hits = ", ".join(f"{how} {kind} {count}" for (how, kind), count in sorted(rounds.damage.hits.items()))
        lost = mesh.missing()
        print(f"by kind: {hits}; acknowledged {len(mesh.acknowledged) + lost}")
        print(
            f"flips {args.flips} cuts {args.cuts} named {rounds.counts['named']} unchanged {rounds.counts['unchanged']} "
            f"lost {lost}{' failed ' + str(rounds.counts['failed']) if rounds.counts['failed'] else ''}"
        )
        code = 1 if lost or rounds.counts["failed"] else 0
    except (TimeoutError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}")
    finally:
        for node in nodes:
            node.end()
        print(f"logs: {folder}") if code or args.keep_logs else run("rm", "-r", folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
