#!/usr/bin/env python3
"""Upgrades a mesh of three nodes a node at a time under the load of real S3 clients, and takes one node back.

    roll.py [--base COMMIT] [--newer COMMIT] [--no-patch] [--profile dev|release] [--clients 6]

The older build is that of --base (by default the first commit of this wire version), the newer one that of --newer (by
default the commit that is checked out), with `newer.patch` beside this script on top, so that it differs whatever the two
commits are: a field more in the report of a node and in the row of an object, an operation that the older one does not
know and that is asked all the time, and a feature level more. Both are built in work trees of their own in
target/upgrade.

Three nodes start with the older build and are founded as README shows. Then, all the time, clients put objects, read them
back and compare every byte, without retries of their own, each through the nodes that are not about to be stopped (as behind
a balancer that is told so). What was put while all nodes were there is read again at any time; what was put while one was out has two parts of three on one
of the others, as nothing repairs that yet, so it is read at once and in the end. One node after another is stopped
(SIGTERM) and started with the newer build; after each, every node must be up as every node sees it. Before the last one is upgraded the one before is taken back to the older build and
forward again: the mesh's level has not risen, so it is let in. Once all are of the newer build the level must rise, and
then the older build must be refused, with the reason.

Stdout: a line a step, what a newer node said that an older one did not know, from the logs, and at the end the counts.
The exit code is 1 if a request failed, an object was lost or wrong, or a step did not come to its end. Without boto3 it
prints SKIPPED.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "power"))

from load import Load  # noqa: E402: found only now
from nodes import READY, Fault, Mesh, run, until  # noqa: E402: likewise

# The commit of the older build; empty: the first one of the wire version that is checked out.
BASE = ""
VERSION_FILE, VERSION_LINE = "mesh-core/src/wire.rs", "pub const VERSION: u16 = "
# What builds of this version have had only from some commit on, and without which they cannot talk.
HEAD_FILE, HEAD_LINE = "dpu-runtime/src/metadata/network.rs", "speaks:2 (the sender's build)"
# The level that newer.patch gives to the newer build.
NEWER = 14
# Seconds.
UP, RISE, BUILD = 60, 60, 3600


def git(*command, at=ROOT):
    return run("git", "-C", at, *command).stdout.strip()


def first_of_this_version():
    """The first commit of the wire version that is checked out, with the heads of Raft's messages as they are."""
    text = open(os.path.join(ROOT, VERSION_FILE)).read()
    version = re.search(re.escape(VERSION_LINE) + r"(\d+);", text)[1]
    brought = [first_with(VERSION_FILE, f"{VERSION_LINE}{version};"), first_with(HEAD_FILE, HEAD_LINE)]
    # The later one.
    return brought[0] if git("merge-base", *brought) == brought[1] else brought[1]


def first_with(file, line):
    """The commit that brought a line, whatever has touched it since."""
    # No patch, oldest first.
    commits = git("log", "--reverse", "--format=%H", "-S", line, "--", file).splitlines()
    if not commits:
        sys.exit(f"no commit brought {line!r} in {file}: name one with --base")
    return commits[0]


def build(name, commit, patch, profile):
    """The binary of a commit, in a work tree of its own."""
    tree = os.path.join(ROOT, "target", "upgrade", name)
    # HEAD is that of the repository, not the one at which the tree was left.
    commit = git("rev-parse", "--verify", f"{commit}^{{commit}}")
    if os.path.exists(tree):
        git("checkout", "--quiet", "--force", "--detach", commit, at=tree)
        git("clean", "--quiet", "-fd", at=tree)
    else:
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", tree, commit)
    if patch is not None:
        git("apply", patch, at=tree)
    what = git("log", "-1", "--format=%h %s", at=tree) + (" with newer.patch" if patch else "")
    print(f"{name}: {what}", flush=True)
    target = os.path.join(ROOT, "target", "upgrade", f"{name}-target")
    command = ["cargo", "build", "--quiet", "--bin", "mesh", "--target-dir", target]
    command += ["--release"] if profile == "release" else []
    subprocess.run(command, cwd=tree, check=True, timeout=BUILD)
    return os.path.join(target, "release" if profile == "release" else "debug", "mesh")


class Roll:
    def __init__(self, mesh, load, older, newer, pause):
        self.mesh, self.load, self.older, self.newer, self.pause = mesh, load, older, newer, pause

    def status(self, node):
        """How the mesh looks from a node."""
        return json.loads(self.mesh.ask(node, "status", "--json"))

    def all_up(self):
        for node in self.mesh.nodes:
            status = self.status(node)
            down = [one["id"] for one in status["nodes"] if one["state"] != "up"]
            down += [one["id"] for one in status["drives"] if one["state"] != "up"]
            down += [f"{one['id']}: {one['missing']}" for one in status["nodes"] if one["missing"]]
            if down or len(status["nodes"]) != len(self.mesh.nodes):
                raise RuntimeError(f"node-{node.number} sees {down} not up of {len(status['nodes'])}")
        return "up"

    def start(self, node, program):
        node.args = argparse.Namespace(**{**vars(node.args), "mesh": program})
        node.serve()

    def stop(self, node):
        self.load.leave(node.number)
        node.leave()

    def to(self, node, program, name):
        began = time.monotonic()
        self.stop(node)
        self.start(node, program)
        until(f"all nodes are up with node-{node.number} of the {name} build", UP, self.all_up)
        self.load.enter(node.number)
        took = time.monotonic() - began
        failed = len(self.load.failed)
        print(f"node-{node.number} to the {name} build: all up after {took:.1f} s, {failed} requests failed so far", flush=True)
        # The load has a while with this mix.
        time.sleep(self.pause)

    def level(self):
        return {node.number: self.status(node).get("level") for node in self.mesh.nodes}

    def run(self, patched):
        *early, before, last = self.mesh.nodes
        for node in [*early, before]:
            self.to(node, self.newer, "newer")
        self.to(before, self.older, "older")
        self.to(before, self.newer, "newer")
        if patched:
            print(f"level before the last: {self.status(early[0])['level']}", flush=True)
        self.to(last, self.newer, "newer")
        if not patched:
            return
        until("the level rises", RISE, lambda: "risen" if set(self.level().values()) == {NEWER} else None)
        print(f"level after the last: {NEWER}", flush=True)
        self.refused(last)

    def refused(self, node):
        """The older build does not start on a store of a mesh that does more."""
        self.stop(node)
        seen = len(open(node.log_path, errors="replace").read())
        self.start(node, self.older)
        code = node.child.wait(timeout=UP)
        said = open(node.log_path, errors="replace").read()[seen:]
        # Of the level, or of what stands in a log since it rose, whichever it comes upon first.
        reasons = ("the mesh does by now what this build cannot", "the metadata store holds what a newer build wrote")
        line = re.search(f".*({'|'.join(reasons)}).*", said)
        if code == 0 or not line:
            raise Fault(f"node-{node.number} of the older build ended with {code}, and said {said[-2000:]}")
        print(f"the older build after that ends with {code}: {line[0].strip()[:300]}", flush=True)
        self.start(node, self.newer)
        until("all nodes are up again", UP, self.all_up)
        self.load.enter(node.number)


def unknown(nodes):
    """What nodes have said that others did not know, and what came of it: each line once, by the node that logged it."""
    told = collections.Counter()
    for node in nodes:
        for line in open(node.log_path, errors="replace"):
            found = re.search(r"(a peer says what this build does not know.*|a newer operation is not known there.*|a peer breaks the protocol.*)", line)
            if found:
                told[f"node-{node.number}: {found[1].strip()[:240]}"] += 1
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=BASE, metavar="COMMIT", help="of the older build")
    parser.add_argument("--newer", default="HEAD", metavar="COMMIT", help="of the newer build")
    parser.add_argument("--no-patch", action="store_true", help="the newer build as it is")
    parser.add_argument("--older-binary", metavar="FILE", help="this one, and nothing is built for it")
    parser.add_argument("--newer-binary", metavar="FILE", help="likewise; with newer.patch, unless --no-patch")
    parser.add_argument("--profile", choices=("dev", "release"), default="dev")
    parser.add_argument("--pause", type=float, default=6, metavar="SECONDS", help="between a node that is up and the next")
    parser.add_argument("--clients", type=int, default=6)
    args = parser.parse_args()
    patch = None if args.no_patch else os.path.join(HERE, "newer.patch")
    older = args.older_binary or build("older", args.base or first_of_this_version(), None, args.profile)
    newer = args.newer_binary or build("newer", args.newer, patch, args.profile)

    nodes, fault = [], None
    with tempfile.TemporaryDirectory(prefix="mesh-roll-") as folder:
        settings = argparse.Namespace(mesh=older, code="2+1", seed=1)
        try:
            mesh = Mesh(folder, settings, nodes, prefix="roll")
            mesh.whole()
            load = Load(mesh, args.clients)
            roll = Roll(mesh, load, older, newer, args.pause)
            until("all nodes are up", READY, roll.all_up)
            try:
                roll.run(patch is not None)
            except (Fault, TimeoutError, subprocess.TimeoutExpired) as error:
                fault = error
            # The logs are whole once nobody asks any more.
            load.end()
            told = [f"{times} x {line}" for line, times in sorted(unknown(nodes).items())]
            return 0 if load.conclude(fault, told) else 1
        finally:
            for node in nodes:
                node.end()


if __name__ == "__main__":
    sys.exit(main())
