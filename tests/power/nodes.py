"""Three `mesh serve` processes on the loopback, their S3 clients, and what was acknowledged: for the scripts beside it."""

import concurrent.futures
import ctypes
import hashlib
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
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
DRIVE = "640MiB"
# Seconds.
READY, BACK, COMMAND, READ_AGAIN, LEAVE = 120, 120, 60, 60, 40
# Hashes of 32 bytes: most objects are small, some have writes that take a while.
SMALL, LARGE = 400, 8000


def run(*command, wanted=True):
    """A command that ends within a minute."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND)
    if wanted and done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


class Fault(Exception):
    """What must not be, whatever comes later."""


def until(what, seconds, ask):
    """What `ask` gives once it neither fails nor gives None. A fault ends it."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            answer = ask()
            if answer is not None:
                return answer
        except Fault:
            raise
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


def says_absent(error):
    """Whether an answer says that there is no such object."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404")


class Node:
    """The folders of a node, and the process that lives on them."""

    def __init__(self, number, folder, args, address, s3):
        self.number, self.args, self.address, self.s3 = number, args, address, s3
        self.root, self.child = f"{folder}/node-{number}", None
        self.log_path = f"{folder}/node-{number}.log"
        self.log = open(self.log_path, "ab")
        self.folder = f"{self.root}/machine/mesh"

    def make(self):
        """What the node's folders lie on."""

    def configure(self):
        """Changes the configuration that was written for the node."""

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

    def go_on(self):
        self.child.send_signal(signal.SIGCONT)

    def kill(self):
        if self.child is not None:
            self.child.kill()
            self.child.wait(timeout=60)
            self.child = None

    def leave(self):
        """SIGTERM, and wait until it has stopped, which has to go well: what it leads it gives away first."""
        self.child.terminate()
        code = self.child.wait(timeout=LEAVE)
        self.child = None
        if code != 0:
            raise Fault(f"node-{self.number} ended with {code}")

    def clean(self):
        """Takes away what `make` made."""

    def end(self):
        try:
            self.kill()
            self.clean()
        except Exception as error:  # noqa: BLE001: the other nodes are to be cleaned up too
            print(f"node {self.number} is not cleaned up: {error}", file=sys.stderr)
        self.log.close()


class Mesh:
    """Three nodes, their clients, and what was acknowledged."""

    def __init__(self, folder, args, nodes, kind=Node, prefix="cut", large=LARGE):
        self.args, self.nodes, self.environment, self.folder = args, nodes, {}, folder
        self.prefix, self.large = prefix, large
        ports = free_ports(6)
        for number in NODES:
            address, s3 = (f"127.0.0.1:{ports[2 * number - side]}" for side in (2, 1))
            nodes.append(kind(number, folder, args, address, s3))
            nodes[-1].make()
        first = nodes[0]
        run(args.mesh, "init", *first.arguments(), "--code", args.code)
        first.configure()
        first.serve()
        self.read_environment(f"{first.folder}/client.env")
        for node in nodes[1:]:
            self.join(node)
        # The nodes that are asked.
        self.up = NODES
        self.clients = {node.number: self.client(node) for node in nodes}
        self.acknowledged, self.uncertain, self.counter = {}, {}, 0
        self.lost, self.wrong = set(), set()
        self.lock = threading.Lock()

    def join(self, node, patience=READY):
        """Makes a machine a node, by an invitation that the first one gives out and that names it alone."""
        first, ticket = self.nodes[0], f"{self.folder}/node-{node.number}.invitation"
        invite = (self.args.mesh, "invite", "--dir", first.folder, "--node", str(node.number), "--out", ticket)
        # The first node may have to be up to be asked for the number.
        until(f"an invitation for node {node.number}", patience, lambda: run(*invite))
        run(self.args.mesh, "join", "--invitation", ticket, *node.arguments())
        node.configure()
        node.serve()

    def ask(self, node, *command):
        """What a command of this mesh says, asked of one node."""
        environment = {**os.environ, **self.environment, "MESH_CONNECT": node.address}
        asked = subprocess.run(
            [node.args.mesh, *command], env=environment, capture_output=True, text=True, timeout=COMMAND
        )
        if asked.returncode != 0:
            raise RuntimeError(asked.stderr.strip())
        return asked.stdout

    def read_environment(self, path):
        for line in open(path):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            if name:
                self.environment[name] = shlex.split(value)[0] if value else ""

    def client(self, node, answer_within=15):
        return boto3.client(
            "s3",
            endpoint_url=f"http://{node.s3}",
            region_name="us-east-1",
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=answer_within, max_pool_connections=32
            ),
        )

    def bucket(self):
        return self.environment["MESH_BUCKET"]

    def whole(self, seconds=READY):
        """Every node takes an object and gives it back."""

        def ask():
            for number, client in self.clients.items():
                key = f"probe/{number}"
                client.put_object(Bucket=self.bucket(), Key=key, Body=b"probe")
                client.get_object(Bucket=self.bucket(), Key=key)["Body"].read()
            return "whole"

        until("the mesh serves", seconds, ask)

    def put(self, number):
        """One object, known to be acknowledged only once its answer is here."""
        with self.lock:
            self.counter += 1
            turn = self.counter
        key = f"{self.prefix}/{turn}"
        body = hashlib.sha256(f"{self.args.seed}.{turn}".encode()).digest()
        body *= 1 + turn * 7 % (self.large if turn % 4 == 0 else SMALL)
        self.uncertain[key] = body
        try:
            self.clients[number].put_object(Bucket=self.bucket(), Key=key, Body=body)
        except Exception:  # noqa: BLE001: it may have happened or not
            return False
        with self.lock:
            self.acknowledged[key] = self.uncertain.pop(key)
        return True

    def missing(self):
        """How many acknowledged objects were lost or had other bytes."""
        return len(self.lost) + len(self.wrong)

    def look(self, key, body, acknowledged):
        """'kept', 'lost', 'wrong' or, of what was not acknowledged, 'absent'. Asked again while the answer is no
        answer."""
        end, turn = time.monotonic() + READ_AGAIN, 0
        while True:
            turn += 1
            up = self.up
            client = self.clients[up[(turn + len(body)) % len(up)]]
            try:
                got = client.get_object(Bucket=self.bucket(), Key=key)["Body"].read()
                return "kept" if got == body else "wrong"
            except Exception as error:  # noqa: BLE001: a node that is not there yet
                if says_absent(error):
                    return "lost" if acknowledged else "absent"
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


def steady(mesh, stop, pause=0.0):
    """A client that puts until it is stopped, with a pause after each object."""
    turn = random.randrange(3)
    while not stop.is_set():
        turn += 1
        up = mesh.up
        done = mesh.put(up[turn % len(up)])
        stop.wait(pause if done else 0.05)
