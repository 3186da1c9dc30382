#!/usr/bin/env python3
"""Normal clients beside hostile ones, for long: what the nodes' memory comes to, how long requests take, and whether an
object is lost.

    soak.py --mesh target/release/mesh --minutes 20 [--readers 500] [--silent 600] [--burst 300] [--on 1,2,3]

Three `mesh serve` processes on the loopback. A mixed load goes all the time: PUT, GET, DELETE and LIST of objects of 4 KiB,
1 MiB and 24 MiB (in parts), every answer compared with what was acknowledged. Beside it two probes are timed: PUT and GET of
4 KiB, and GET of 1 MiB. After a quiet phase hostile clients come, to the nodes that `--on` names:

- readers, which ask for 32 MiB and do not read; one that is cut or refused is back ten seconds later,
- silent connections: half of them HTTP/1.1, half HTTP/2 (preface and SETTINGS); every third after half a head,
- bursts of GETs of 32 MiB, all at once, that are read: every 90 seconds, and each to its end.

What a node may have: what it has idle, before the load, and the account of `[s3] memory`, which covers bodies on their way in,
answers on their way out and the pool's idle buffers. The work below that (shards on their way, of this node's requests and of
the other nodes', and what the metadata and drives keep) has no account; what it comes to shows in the quiet phase.

Expected: resident memory within that, no object lost or wrong, no answer to a normal client but the right one or a
`SlowDown` that it repeats, and a p99 of each probe in the hostile phase of at most three times the quiet one. A minute after
all clients have gone memory is printed once more. Exit code 1 if anything is not so. Without boto3 it prints SKIPPED.
"""

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import re
import resource
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

try:
    import boto3
    from botocore.client import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "power"))
from nodes import NODES, die_with_parent, free_ports, run, until  # noqa: E402: beside the tests of power

KIB, MIB = 1 << 10, 1 << 20
BIG, PART = 32 * MIB, 8 * MIB
# Seconds.
READY, SETTLE, GO_ON, AFTERWARDS = 120, 10, 60, 60
BURST_EVERY, BURST_MAX, READER_BACK, SILENT_BACK = 90, 80, 10, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4)
# HEADERS of stream 1 that do not end.
HALF_OF_HEADERS = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"


def cpu_of(pid):
    """Seconds of the CPU that a process has used."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid):
    """Of `VmRSS`, `RssAnon`, `RssFile`: MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        found = re.findall(r"^(VmRSS|RssAnon|RssFile):\s*(\d+)", status.read(), re.M)
    return {name: int(kib) // 1024 for name, kib in found}


def busy():
    """Seconds of all cores that somebody has used."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(field) for field in stat.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


class Mesh:
    """Three nodes, and the way to them."""

    def __init__(self, folder, args):
        self.folder, self.args, self.children, self.logs, self.environment = folder, args, {}, [], {}
        ports = free_ports(6)
        self.addresses = {number: f"127.0.0.1:{ports[2 * number - 2]}" for number in NODES}
        self.s3 = {number: ("127.0.0.1", ports[2 * number - 1]) for number in NODES}

    def start(self):
        run(self.args.mesh, "init", *self.arguments(1), "--code", "2+1")
        self.serve(1)
        for line in open(f"{self.folder}/node-1/mesh/client.env", encoding="utf-8"):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            if name:
                self.environment[name] = shlex.split(value)[0] if value else ""
        for number in NODES[1:]:
            ticket = f"{self.folder}/node-{number}.invitation"
            invite = (self.args.mesh, "invite", "--dir", f"{self.folder}/node-1/mesh")
            invite += ("--node", str(number), "--out", ticket)
            until(f"an invitation for node {number}", READY, lambda: run(*invite))
            run(self.args.mesh, "join", "--invitation", ticket, *self.arguments(number))
            self.serve(number)
        until("the mesh serves", READY, self.whole)

    def arguments(self, number):
        root = f"{self.folder}/node-{number}"
        drives = [part for drive in "ab" for part in ("--drive", f"{root}/drive-{drive}:{self.args.drive}")]
        host, port = self.s3[number]
        return ["--dir", f"{root}/mesh", "--address", self.addresses[number], "--s3", f"{host}:{port}", *drives]

    def serve(self, number):
        path = f"{self.folder}/node-{number}/mesh/mesh.toml"
        if self.args.memory:
            text = open(path, encoding="utf-8").read()
            text = re.sub(r"^memory = .*\n", "", text, flags=re.M)
            text = text.replace("[s3]\n", f'[s3]\nmemory = "{self.args.memory}"\n')
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        self.logs.append(open(f"{self.folder}/node-{number}.log", "ab"))
        self.children[number] = subprocess.Popen(
            [self.args.mesh, "serve", "--config", path],
            stdin=subprocess.DEVNULL, stdout=self.logs[-1], stderr=self.logs[-1], preexec_fn=die_with_parent,
        )  # fmt: skip

    def account(self):
        """MiB that `[s3] memory` says, or its default."""
        text = open(f"{self.folder}/node-1/mesh/mesh.toml", encoding="utf-8").read()
        found = re.search(r'^\[s3\][^\[]*^memory = "?(\d+)\s*([KMGT]i?B)?', text, re.M)
        if not found:
            return 512
        units = {"KiB": KIB, "MiB": MIB, "GiB": 1 << 30, "TiB": 1 << 40, None: 1}
        return int(found[1]) * units[found[2]] // MIB

    def client(self, number):
        host, port = self.s3[number]
        return boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60, max_pool_connections=4),
        )

    def bucket(self):
        return self.environment["MESH_BUCKET"]

    def whole(self):
        """Every node takes an object and gives it back."""
        for number in NODES:
            client, key = self.client(number), f"first/{number}"
            client.put_object(Bucket=self.bucket(), Key=key, Body=b"first")
            client.get_object(Bucket=self.bucket(), Key=key)["Body"].read()
        return "whole"

    def target(self, number, method, key):
        """The target of a presigned request."""
        operation = {"GET": "get_object", "PUT": "put_object"}[method]
        parameters = {"Bucket": self.bucket(), "Key": key}
        url = self.client(number).generate_presigned_url(operation, Params=parameters, ExpiresIn=12 * 3600)
        url = urllib.parse.urlsplit(url)
        return url.path + "?" + url.query

    def end(self):
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(timeout=30)
        for log in self.logs:
            log.close()


# Normal clients.


class Counts:
    """What happened to normal requests, by name. Threads share it."""

    def __init__(self):
        self.lock, self.of, self.said = threading.Lock(), {}, []

    def add(self, what, count=1):
        with self.lock:
            self.of[what] = self.of.get(what, 0) + count

    def complain(self, what, text):
        self.add(what)
        with self.lock:
            if len(self.said) < 20:
                self.said.append(f"{time.strftime('%H:%M:%S')} {what}: {text}")


def kind_of(error):
    """'slow_down', 'closed' (a connection that was idle and is gone), 'unavailable' (a 503 that is no `SlowDown`),
    'broken_off' (an answer that did not come to its end) or 'refused'."""
    if isinstance(error, ClientError):
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        return "slow_down" if code == "SlowDown" else "unavailable" if status == 503 else "refused"
    name = type(error).__name__
    if name in ("ResponseStreamingError", "IncompleteReadError", "IncompleteRead", "ReadTimeoutError"):
        return "broken_off"
    return "closed" if name in ("ConnectionClosedError", "RemoteDisconnected", "ConnectionResetError") else "refused"


class Mixed:
    """One client of the mixed load, with keys of its own, so that it knows what every answer should be."""

    def __init__(self, mesh, number, noise, counts):
        self.mesh, self.number, self.noise, self.counts = mesh, number, noise, counts
        self.clients = [mesh.client(node) for node in NODES]
        self.rng, self.turn, self.acknowledged = random.Random(number), 0, {}

    def body(self, made):
        turn, size = made
        head = hashlib.sha256(f"{self.number}.{turn}".encode()).digest()
        at = turn * 4099 % (len(self.noise) - 24 * MIB)
        return head + self.noise[at : at + size - len(head)]

    def ask(self, what, do):
        """Repeats a request until it is answered, as clients do; counts what it met."""
        end, pause = time.monotonic() + GO_ON, 0.1
        while True:
            client = self.clients[self.turn % len(NODES)]
            try:
                answer = do(client)
                self.counts.add(what)
                return answer
            except (ClientError, BotoCoreError, OSError) as error:
                kind = kind_of(error)
                if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                    return None
                if kind in ("slow_down", "closed"):
                    self.counts.add(kind)
                else:
                    self.counts.complain(kind, f"{what}: {error}")
                if time.monotonic() > end:
                    self.counts.complain("gave_up", f"{what}: {error}")
                    raise TimeoutError(f"{what}: not within {GO_ON} s") from error
            time.sleep(pause)
            pause = min(2 * pause, 2)

    def put(self, size):
        self.turn += 1
        key, made = f"mixed/{self.number}/{size}/{self.rng.randrange(60 if size < MIB else 12)}", (self.turn, size)
        # Until it is acknowledged, it may be the old one or the new one.
        self.acknowledged.pop(key, None)
        body = self.body(made)
        if size > 2 * PART:
            self.ask("multipart", lambda client: self.in_parts(client, key, body))
        else:
            self.ask("put", lambda client: client.put_object(Bucket=self.mesh.bucket(), Key=key, Body=body))
        self.acknowledged[key] = made

    def in_parts(self, client, key, body):
        where = {"Bucket": self.mesh.bucket(), "Key": key}
        where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
        parts = []
        for number in range(1, -(-len(body) // PART) + 1):
            piece = body[(number - 1) * PART : number * PART]
            # A part that is told to come later does; whoever gave it up and began anew would never come to an end.
            part = self.ask("part", lambda client: client.upload_part(**where, PartNumber=number, Body=piece))
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        return client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})

    def get(self, key, made):
        def do(client):
            return client.get_object(Bucket=self.mesh.bucket(), Key=key)["Body"].read()

        got = self.ask("get", do)
        if got is None:
            self.counts.complain("lost", key)
        elif got != self.body(made):
            self.counts.complain("wrong", key)

    def some(self, small=True):
        keys = [key for key in self.acknowledged if small or f"/{4 * KIB}/" not in key]
        return self.rng.choice(keys) if keys else None

    def delete(self, key):
        del self.acknowledged[key]
        self.ask("delete", lambda client: client.delete_object(Bucket=self.mesh.bucket(), Key=key))
        got = self.ask("get", lambda client: client.get_object(Bucket=self.mesh.bucket(), Key=key)["Body"].read())
        if got is not None:
            self.counts.complain("wrong", f"{key} is there, though it was deleted")

    def list(self):
        prefix = f"mixed/{self.number}/"
        page = self.ask("list", lambda client: client.list_objects_v2(Bucket=self.mesh.bucket(), Prefix=prefix))
        found = {entry["Key"]: entry["Size"] for entry in page.get("Contents", [])}
        wanted = {key: size for key, (_, size) in self.acknowledged.items()}
        if found != wanted:
            self.counts.complain("wrong", f"a listing differs in {sorted(found.items() ^ wanted.items())[:3]}")

    def step(self):
        size = self.rng.choices([4 * KIB, MIB, 24 * MIB], [70, 27, 3])[0]
        what = self.rng.choices(["put", "get", "delete", "list"], [4, 4, 1, 1])[0]
        key = self.some() if what != "put" else None
        if what == "list":
            self.list()
        elif key is None:
            self.put(size)
        elif what == "get":
            self.get(key, self.acknowledged[key])
        else:
            self.delete(key)

    def run(self, stop, pause):
        try:
            while not stop.is_set():
                began = time.monotonic()
                self.step()
                stop.wait(max(0.0, pause - (time.monotonic() - began)))
        except Exception as error:  # noqa: BLE001: counted, and the verdict is bad
            self.counts.complain("gave_up", repr(error))


def mixed(mesh, told, pipe, args):
    """The mixed load, until it is told; then every acknowledged object once more."""
    die_with_parent()
    noise, counts = random.Random(5).randbytes(26 * MIB), Counts()
    stop = threading.Event()
    clients = [Mixed(mesh, number, noise, counts) for number in range(args.threads)]
    threads = [threading.Thread(target=client.run, args=(stop, args.pause)) for client in clients]
    for thread in threads:
        thread.start()
    told.wait()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(len([key for client in clients for key in client.acknowledged]))
    pipe.recv()
    for client in clients:
        for key, made in client.acknowledged.items():
            try:
                client.get(key, made)
            except TimeoutError:
                counts.complain("lost", f"{key} cannot be read")
    pipe.send((counts.of, counts.said))


class Probe:
    """A client with one connection, as an SDK has it, that times what it asks."""

    def __init__(self, mesh, number, counts):
        self.host, self.port, self.counts, self.connection, self.served = *mesh.s3[number], counts, None, 0

    def ask(self, method, target, body=None):
        """Status and body of the answer that is none of `SlowDown`."""
        end, pause = time.monotonic() + GO_ON, 0.1
        while time.monotonic() < end:
            fresh = self.connection is None
            if fresh:
                self.connection, self.served = http.client.HTTPConnection(self.host, self.port, timeout=60), 0
            try:
                self.connection.request(method, target, body)
                answer = self.connection.getresponse()
                got, self.served = answer.read(), self.served + 1
                # Every now and then a new one: others have to be let in too.
                if answer.will_close or self.served >= 20:
                    self.drop()
            except (OSError, http.client.HTTPException) as error:
                self.drop()
                if not fresh and not isinstance(error, http.client.IncompleteRead):
                    # It was idle, and the node closed it: the next one at once.
                    self.counts.add("closed")
                    continue
                kind = "broken_off" if isinstance(error, http.client.IncompleteRead) else "refused"
                self.counts.complain(kind, f"probe {method}: {error!r}")
            else:
                if answer.status == 200:
                    return got
                if answer.status == 503 and b"<Code>SlowDown</Code>" in got:
                    self.counts.add("slow_down")
                else:
                    kind = "unavailable" if answer.status == 503 else "refused"
                    self.counts.complain(kind, f"probe {method}: {answer.status} {got[:300]}")
            time.sleep(pause)
            pause = min(2 * pause, 2)
        self.counts.complain("gave_up", f"probe {method}")
        return b""

    def drop(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def probes(mesh, told, pipe, args):
    """The two probes, until they are told. Gives (when, what, seconds) of each request."""
    die_with_parent()
    counts, times = Counts(), []
    noise = random.Random(7).randbytes(MIB)

    def small():
        clients = {number: Probe(mesh, number, counts) for number in NODES}
        targets = {(number, method): mesh.target(number, method, f"probe/{number}")
                   for number in NODES for method in ("PUT", "GET")}  # fmt: skip
        turn = 0
        while not told.is_set():
            turn += 1
            number = NODES[turn % len(NODES)]
            body = (f"{turn} " * (4 * KIB))[: 4 * KIB].encode()
            for method in ("PUT", "GET"):
                began = time.monotonic()
                got = clients[number].ask(method, targets[number, method], body if method == "PUT" else None)
                times.append((began, f"{method} 4 KiB", time.monotonic() - began))
                if method == "GET" and got != body:
                    counts.complain("wrong", f"probe/{number} after turn {turn}: {got[:20]}")
            told.wait(0.2)

    def large():
        clients = {number: Probe(mesh, number, counts) for number in NODES}
        clients[1].ask("PUT", mesh.target(1, "PUT", "probe/large"), noise)
        targets = {number: mesh.target(number, "GET", "probe/large") for number in NODES}
        turn = 0
        while not told.is_set():
            turn += 1
            number = NODES[turn % len(NODES)]
            began = time.monotonic()
            got = clients[number].ask("GET", targets[number])
            times.append((began, "GET 1 MiB", time.monotonic() - began))
            if got != noise:
                counts.complain("wrong", f"probe/large: {len(got)} bytes")
            told.wait(0.25)

    threads = [threading.Thread(target=small), threading.Thread(target=large)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((counts.of, counts.said, times))


# Hostile clients.


class Hostile:
    """All hostile connections, in one loop."""

    def __init__(self, mesh, args):
        self.selector, self.args = selectors.DefaultSelector(), args
        self.mesh, self.on, self.turn = mesh, args.nodes, 0
        self.targets = {number: mesh.target(number, "GET", "big") for number in self.on}
        # When to open one, of which kind.
        self.due = [(at * 5 / max(1, args.readers), "reader") for at in range(args.readers)]
        self.due += [(at * 5 / max(1, args.silent), ("silent", at)) for at in range(args.silent)]
        self.counts, self.bursts, self.burst, self.next_burst = {}, [], None, 20.0
        self.scratch, self.began = bytearray(256 * KIB), time.monotonic()
        # Readers that have an answer and leave it where it is.
        self.stopped, self.looked, self.looks, self.sum_stopped, self.most_stopped = [], 0.0, 0, 0, 0

    def add(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def run(self, told):
        while not told.is_set():
            now = time.monotonic() - self.began
            self.look()
            later = []
            for at, kind in self.due:
                if at > now or not self.open(kind):
                    later.append((max(at, now + 0.5) if at <= now else at, kind))
            self.due = later
            if self.args.burst and self.burst is None and now >= self.next_burst:
                self.burst = {"began": time.monotonic(), "left": self.args.burst}
                self.next_burst = now + BURST_EVERY
                for _ in range(self.args.burst):
                    if not self.open("burst"):
                        self.burst_ends("none")
            for key, _ in self.selector.select(0.1):
                self.hear(key.fileobj, key.data, now)
                self.look()
            if self.burst is not None and time.monotonic() - self.burst["began"] > BURST_MAX:
                for key in [key for key in self.selector.get_map().values() if key.data["kind"] == "burst"]:
                    self.close(key.fileobj)
                    self.burst_ends("too_slow")
        for key in list(self.selector.get_map().values()):
            self.close(key.fileobj)
        if self.burst is not None:
            self.bursts.append({**self.burst, "ended": time.monotonic()})

    def open(self, kind):
        """Whether it came to be, or was at least tried."""
        self.turn += 1
        number = self.on[self.turn % len(self.on)]
        host, port = self.mesh.s3[number]
        sock = socket.socket()
        try:
            # The queue of the listener may be full for a moment.
            sock.settimeout(0.5)
            if kind == "reader":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
            sock.connect((host, port))
            get = f"GET {self.targets[number]} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode()
            data = {"kind": kind if isinstance(kind, str) else kind[0], "again": kind, "left": None, "head": b""}
            if isinstance(kind, tuple):
                http2, half = kind[1] % 2 == 1, kind[1] // 2 % 3 == 0
                if http2:
                    sock.sendall(PREFACE + (HALF_OF_HEADERS if half else b""))
                elif half:
                    sock.sendall(get[: len(get) // 2])
            else:
                sock.sendall(get)
            sock.setblocking(False)
        except OSError:
            sock.close()
            self.add("not connected")
            return False
        self.add(f"{data['kind']} opened")
        self.selector.register(sock, selectors.EVENT_READ, data)
        return True

    def hear(self, sock, data, now):
        if data["kind"] == "burst":
            return self.read_burst(sock, data)
        if data["kind"] == "reader":
            return self.see(sock, data, now)
        try:
            if sock.recv_into(self.scratch) > 0:
                return None
        except BlockingIOError:
            return None
        except OSError:
            pass
        self.close(sock)
        self.add("silent closed by the node")
        self.due.append((now + SILENT_BACK, data["again"]))
        return None

    def see(self, sock, data, now):
        """The start of a reader's answer, which stays where it is."""
        try:
            head = sock.recv(12, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if head.endswith(b" 200"):
            self.selector.unregister(sock)
            self.stopped.append((sock, data))
            return
        self.add("reader told SlowDown" if head.endswith(b" 503") else "reader cut before an answer")
        self.close(sock)
        self.due.append((now + READER_BACK, data["again"]))

    def look(self):
        """Once a second: which of the stopped readers were cut. To read would make them no stopped readers."""
        now = time.monotonic()
        if now - self.looked < 1:
            return
        self.looked, kept = now, []
        for sock, data in self.stopped:
            # TCP_INFO begins with the state; 1 is ESTABLISHED.
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01":
                kept.append((sock, data))
            else:
                sock.close()
                self.add("reader cut by the node")
                self.due.append((now - self.began + READER_BACK, data["again"]))
        self.stopped = kept
        self.looks, self.sum_stopped = self.looks + 1, self.sum_stopped + len(kept)
        self.most_stopped = max(self.most_stopped, len(kept))

    def close(self, sock):
        try:
            self.selector.unregister(sock)
        except (KeyError, ValueError):
            pass
        sock.close()

    def read_burst(self, sock, data):
        try:
            for _ in range(4):
                if data["left"] is None:
                    data["head"] += sock.recv(4 * KIB)
                    head, found, rest = data["head"].partition(b"\r\n\r\n")
                    if not found:
                        if not data["head"] or len(head) > 16 * KIB:
                            raise ConnectionError("no head")
                        return
                    if b" 200 " not in head[:16]:
                        self.close(sock)
                        self.burst_ends("slow_down" if b" 503 " in head[:16] else f"refused {head[:12]}")
                        return
                    data["left"] = BIG - len(rest)
                # What it says is compared elsewhere; here it is only taken, as cheaply as there is.
                got = sock.recv_into(self.scratch, len(self.scratch), socket.MSG_TRUNC)
                data["left"] -= got
                if data["left"] == 0 or got == 0:
                    self.close(sock)
                    self.burst_ends("whole" if data["left"] == 0 else "broken off")
                    return
        except BlockingIOError:
            return
        except OSError:
            self.close(sock)
            self.burst_ends("broken off" if data["left"] is not None else "closed")

    def burst_ends(self, how):
        self.burst[how] = self.burst.get(how, 0) + 1
        self.burst["left"] -= 1
        if self.burst["left"] == 0:
            self.bursts.append({**self.burst, "ended": time.monotonic()})
            self.burst = None


def hostile(mesh, told, pipe, args):
    die_with_parent()
    # What it costs here must not look like what it costs the nodes.
    os.nice(5)
    client = Hostile(mesh, args)
    client.run(told)
    for sock, _ in client.stopped:
        sock.close()
    client.counts["stopped readers held, mean"] = client.sum_stopped // max(1, client.looks)
    client.counts["stopped readers held, most"] = client.most_stopped
    pipe.send((client.counts, client.bursts))


# The whole.


class Sampler(threading.Thread):
    """Memory of the nodes, every second."""

    def __init__(self, mesh):
        super().__init__(daemon=True)
        self.mesh, self.most, self.over, self.stop, self.series = mesh, {}, {}, threading.Event(), []

    def reset(self):
        self.most, self.over = {}, {}

    def run(self):
        while not self.stop.wait(1):
            row = []
            for number, child in self.mesh.children.items():
                try:
                    memory = memory_of(child.pid)
                except OSError:
                    continue
                if "VmRSS" not in memory:
                    # It is just ending.
                    continue
                row.append(memory["VmRSS"])
                self.over.setdefault(number, []).append(memory["VmRSS"])
                if memory["VmRSS"] > self.most.get(number, {"VmRSS": -1})["VmRSS"]:
                    self.most[number] = memory
            self.series.append((time.monotonic(), row))


def spawn(target, mesh, args):
    told = multiprocessing.Event()
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=target, args=(mesh, told, there, args), daemon=True)
    child.start()
    there.close()
    return child, told, here


def answer_of(pipe, seconds, what):
    if not pipe.poll(seconds):
        raise TimeoutError(f"{what} did not come to its end in {seconds} s")
    return pipe.recv()


def soak(mesh, args):
    mesh.start()
    client = mesh.client(1)
    client.put_object(Bucket=mesh.bucket(), Key="big", Body=random.Random(3).randbytes(BIG))
    time.sleep(SETTLE)
    idle = {number: memory_of(child.pid) for number, child in mesh.children.items()}
    account = mesh.account()
    print(f"account {account} MiB; idle {idle}", flush=True)
    sampler = Sampler(mesh)
    sampler.start()
    load, load_told, load_pipe = spawn(mixed, mesh, args)
    probe, probe_told, probe_pipe = spawn(probes, mesh, args)
    servers = [child.pid for child in mesh.children.values()]
    normal = [load.pid, probe.pid, os.getpid()]

    def phase(name, seconds, more=()):
        ask = lambda: [sum(map(cpu_of, pids)) for pids in (servers, normal, more)] + [busy()]
        before = time.monotonic(), ask()
        sampler.reset()
        time.sleep(seconds)
        after, used = time.monotonic(), ask()
        took = after - before[0]
        share = [100 * (now - then) / took for now, then in zip(used, before[1])]
        print(
            f"{name}: {took:.0f} s; CPU, of {100 * os.cpu_count()} %: nodes {share[0]:.0f} %, normal clients "
            f"{share[1]:.0f} %, hostile clients {share[2]:.0f} %, others on this machine {share[3] - sum(share[:3]):.0f} %",
            flush=True,
        )
        for number in NODES:
            samples = sampler.over.get(number, [])
            print(
                f"  node {number}: most {sampler.most[number]}, median {percentile(samples, 0.5)} MiB, "
                f"beyond idle {sampler.most[number]['VmRSS'] - idle[number]['VmRSS']}",
                flush=True,
            )
        return before[0], after, {number: sampler.most[number]["VmRSS"] for number in NODES}

    time.sleep(5)
    quiet = phase("quiet", args.quiet * 60)
    enemy, enemy_told, enemy_pipe = spawn(hostile, mesh, args)
    bad = phase("hostile", args.minutes * 60, (enemy.pid,))
    enemy_told.set()
    enemies, bursts = answer_of(enemy_pipe, 60, "the hostile clients")
    probe_told.set()
    probe_counts, probe_said, times = answer_of(probe_pipe, 2 * GO_ON, "the probes")
    load_told.set()
    kept = answer_of(load_pipe, 4 * GO_ON, "the mixed load")
    gone = time.monotonic()
    print(f"hostile clients: {json.dumps(enemies, sort_keys=True)}")
    for burst in bursts:
        took = burst["ended"] - burst["began"]
        print(f"  burst: {took:.0f} s, { {k: v for k, v in burst.items() if k not in ('began', 'ended', 'left')} }")
    time.sleep(max(0.0, AFTERWARDS - (time.monotonic() - gone)))
    after = {number: memory_of(child.pid) for number, child in mesh.children.items()}
    for number in NODES:
        print(f"a minute after, node {number}: {after[number]}; idle before {idle[number]['VmRSS']} MiB")
    load_pipe.send("look")
    counts, said = answer_of(load_pipe, 10 * GO_ON, "the last look")
    print(f"{kept} acknowledged objects looked for at the end")
    print(f"mixed load: {json.dumps(counts, sort_keys=True)}")
    print(f"probes: {json.dumps(probe_counts, sort_keys=True)}")
    for line in [*said, *probe_said]:
        print(f"  {line}")
    return verdict(idle, account, quiet, bad, times, bursts, counts, probe_counts, sampler.series)


def verdict(idle, account, quiet, bad, times, bursts, counts, probe_counts, series):
    fails = []
    for number in NODES:
        most, allowed = max(quiet[2][number], bad[2][number]), idle[number]["VmRSS"] + account
        if most > allowed:
            fails.append(f"node {number} had {most} MiB of {allowed}")

    def during(when):
        return any(burst["began"] <= when <= burst["ended"] for burst in bursts)

    for index, number in enumerate(NODES):
        rows = [(during(at), row[index]) for at, row in series if bad[0] <= at < bad[1] and len(row) == len(NODES)]
        inside, outside = (max((rss for burst, rss in rows if burst == which), default=0) for which in (True, False))
        print(f"node {number}, hostile phase: most {inside} MiB in bursts, {outside} MiB between them")
    for what in ("PUT 4 KiB", "GET 4 KiB", "GET 1 MiB"):
        rows = {
            "quiet": [s for at, kind, s in times if kind == what and quiet[0] <= at < quiet[1]],
            "hostile": [s for at, kind, s in times if kind == what and bad[0] <= at < bad[1]],
            "of it in bursts": [s for at, kind, s in times if kind == what and bad[0] <= at < bad[1] and during(at)],
            "between bursts": [s for at, kind, s in times if kind == what and bad[0] <= at < bad[1] and not during(at)],
        }
        texts = [
            f"{name} p50 {percentile(s, 0.5) * 1e3:.0f} p99 {percentile(s, 0.99) * 1e3:.0f} max "
            f"{max(s, default=0) * 1e3:.0f} ({len(s)})"
            for name, s in rows.items()
        ]
        print(f"{what}, ms: " + "; ".join(texts))
        before, now = percentile(rows["quiet"], 0.99), percentile(rows["hostile"], 0.99)
        if not now <= 3 * before:
            fails.append(f"p99 of {what} is {now / before:.1f} times the quiet one")
    for burst in bursts:
        # They read as fast as they can: each is answered to its end, or told to come later.
        for how, count in burst.items():
            if how == "broken off" or how.startswith("refused"):
                fails.append(f"{count} of a burst {how}")
    for what in ("lost", "wrong", "unavailable", "broken_off", "refused", "gave_up"):
        count = counts.get(what, 0) + probe_counts.get(what, 0)
        if count:
            fails.append(f"{count} {what}")
    print("; ".join(fails) if fails else "all as it should be")
    return 1 if fails else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True, help="the program")
    parser.add_argument("--minutes", type=float, default=20, help="of the hostile phase")
    parser.add_argument("--quiet", type=float, help="minutes of the quiet phase; default: a quarter of that, 1 to 5")
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--silent", type=int, default=600)
    parser.add_argument("--burst", type=int, default=300)
    parser.add_argument("--on", default="1,2,3", help="the nodes that hostile clients go to")
    parser.add_argument("--memory", help="[s3] memory of the nodes; default: the program's")
    parser.add_argument("--drive", default="3GiB", help="of each of two drives of a node")
    parser.add_argument("--threads", type=int, default=3, help="clients of the mixed load")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds from one request of such a client to its next")
    parser.add_argument("--folder", help="where the nodes live; default: a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the nodes' folders behind")
    args = parser.parse_args()
    args.mesh = os.path.abspath(args.mesh)
    args.nodes = [int(number) for number in args.on.split(",")]
    args.quiet = args.quiet if args.quiet is not None else min(5.0, max(1.0, args.minutes / 4))
    wanted = args.readers + args.silent + args.burst + 200
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        print(f"SKIPPED: {wanted} descriptors are needed, and {most} to be had")
        return 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if most != resource.RLIM_INFINITY else 65_536, most))
    multiprocessing.set_start_method("fork")
    folder = tempfile.mkdtemp(prefix="mesh-soak-", dir=args.folder)
    mesh, code = Mesh(folder, args), 1
    try:
        code = soak(mesh, args)
    except (TimeoutError, RuntimeError, subprocess.TimeoutExpired, EOFError) as error:
        print(f"FAILED: {error}")
    finally:
        mesh.end()
        print(f"folder: {folder}") if args.keep else run("rm", "-r", folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
