#!/usr/bin/env python3
"""What a quiet tenant feels of a noisy one: its own latencies while the other asks for its share, and for ten times its share.

    neighbours.py --mesh target/release/mesh [--times 5] [--seconds 10] [--share 40] [--factor 10]

Starts a mesh of development with two more tenants, each of which may ask for --share requests a second. The quiet one puts and gets
4 KiB, 20 times a second each, one after the other. The noisy one puts and gets 64 KiB: at its share in one phase, at --factor times
that in the next, and so on in turn; what is over its share is refused with SlowDown, and it does not wait for that. Both send by
processes of their own, by presigned requests over connections that are kept; those of the noisy one run at nice 10.

Stdout: median and p99 of the quiet one's PUT and GET in each phase, and how far they moved from the phase before; median and spread.
Nothing is asserted but that no request of the quiet one failed, and that the noisy one was refused only what is over its share.
"""

import argparse
import http.client
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import boto3
from botocore.client import Config

KIB, READY, THREADS = 1 << 10, 60, 64


class Tenant:
    """An access key, and presigned targets made beforehand."""

    def __init__(self, told, name):
        self.bucket = f"of-{name}"
        self.url = urllib.parse.urlsplit(told["AWS_ENDPOINT_URL"])
        self.s3 = boto3.client(
            "s3",
            endpoint_url=told["AWS_ENDPOINT_URL"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def targets(self, keys):
        def target(operation, key):
            url = self.s3.generate_presigned_url(operation, Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=7200)
            url = urllib.parse.urlsplit(url)
            return f"{url.path}?{url.query}"

        return [(target("put_object", key), target("get_object", key)) for key in keys]


def ask(connection, method, target, body=None):
    connection.request(method, target, body)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def quiet(host, port, targets, seconds, pipe):
    """Latencies in milliseconds of PUT and GET, at a steady pace."""
    connection, body, took = http.client.HTTPConnection(host, port, timeout=60), os.urandom(4 * KIB), {"PUT": [], "GET": []}
    begin, turn = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        time.sleep(max(0.0, begin + turn / 40 - time.monotonic()))
        put, get = targets[turn // 2 % len(targets)]
        method, target, data = ("PUT", put, body) if turn % 2 == 0 else ("GET", get, None)
        began = time.monotonic()
        status = ask(connection, method, target, data)
        took[method].append((time.monotonic() - began) * 1000)
        if status != 200:
            pipe.send(f"the quiet one was answered {status}")
            return
        turn += 1
    pipe.send(took)


def noisy(host, port, targets, rate, stop, counts):
    """At a rate, whatever comes of it; by some threads, so that none waits for the others."""
    os.nice(10)
    threads = THREADS

    def run(number):
        connection, body, turn = http.client.HTTPConnection(host, port, timeout=60), os.urandom(64 * KIB), 0
        begin = time.monotonic()
        while not stop.is_set():
            time.sleep(max(0.0, begin + (turn * threads + number) / rate - time.monotonic()))
            put, get = targets[number]
            method, target, data = ("PUT", put, body) if turn % 2 == 0 else ("GET", get, None)
            try:
                status = ask(connection, method, target, data)
            except (OSError, http.client.HTTPException):
                status = 0
                connection.close()
            with counts.get_lock():
                counts[0 if status == 200 else 1 if status == 503 else 2] += 1
            turn += 1

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def phase(told, one, other, rate, seconds):
    """Latencies of the quiet one, and what the noisy one was answered: well, with SlowDown, otherwise."""
    host, port = one.url.hostname, one.url.port
    stop, counts = multiprocessing.Event(), multiprocessing.Array("q", 3)
    ours, theirs = multiprocessing.Pipe()
    loud = multiprocessing.Process(
        target=noisy, args=(host, port, other.targets([f"n-{at}" for at in range(THREADS)]), rate, stop, counts)
    )
    loud.start()
    # Its burst of a second is used up.
    time.sleep(2)
    calm = multiprocessing.Process(
        target=quiet, args=(host, port, one.targets([f"q-{at}" for at in range(20)]), seconds, theirs)
    )
    calm.start()
    took = ours.recv()
    calm.join()
    stop.set()
    loud.join()
    if isinstance(took, str):
        sys.exit(took)
    return took, list(counts)


def p99(values):
    return sorted(values)[int(len(values) * 0.99)]


def spread(values, form):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", default="mesh")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--share", type=int, default=40, help="requests a second that each tenant may ask for")
    parser.add_argument("--factor", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="neighbours-") as folder:
        environment = {**os.environ, "MESH_LOG": "error,s3s=off"}
        dev = subprocess.Popen(
            [args.mesh, "dev", "--data", folder, "--s3-port", "0"], stdout=subprocess.DEVNULL, env=environment
        )
        try:
            told, until = os.path.join(folder, "dev.env"), time.monotonic() + READY
            while not os.path.exists(told):
                if dev.poll() is not None or time.monotonic() > until:
                    sys.exit("the mesh does not start")
                time.sleep(0.05)
            with open(told, encoding="utf-8") as lines:
                words = [shlex.split(line)[1] for line in lines if line.startswith("export ")]
            told = dict(word.split("=", 1) for word in words)

            def mesh(*command):
                done = subprocess.run(
                    [args.mesh, *command], env={**os.environ, **told}, check=True, capture_output=True, text=True
                )
                return done.stdout

            tenants = []
            for name in ("quiet", "noisy"):
                # Requests begin a little apart from each other: who keeps to its share is to be refused none.
                mesh("tenant", "create", name, "--requests", str(args.share * 11 // 10))
                lines = mesh("key", "create", name, "load", "--allow", "*=all").splitlines()
                key = dict(shlex.split(line)[1].split("=", 1) for line in lines)
                tenants.append(Tenant({**told, **key}, name))
            for tenant in tenants:
                until = time.monotonic() + READY
                while True:
                    try:
                        tenant.s3.create_bucket(Bucket=tenant.bucket)
                        break
                    except Exception as error:  # pylint: disable=broad-except
                        if time.monotonic() > until:
                            sys.exit(f"{tenant.bucket}: {error}")
                        time.sleep(0.2)
            one, other = tenants
            rows = []
            for _ in range(args.times + 1):
                rows.append([phase(told, one, other, args.share * factor, args.seconds) for factor in (1, args.factor)])
        finally:
            dev.terminate()
            dev.wait(60)
    rows = rows[1:]
    print(f"{os.cpu_count()} cores; {args.times} times {args.seconds:.0f} s at {args.share} requests a second and at {args.factor} times that")
    for at, factor in enumerate((1, args.factor)):
        good, slow, rest = (sum(row[at][1][kind] for row in rows) for kind in range(3))
        print(f"the noisy one at {factor} times its share: {good} served, {slow} told to slow down, {rest} otherwise")
    for method in ("PUT", "GET"):
        for what, of in (("median", statistics.median), ("p99", p99)):
            before, after = ([of(row[at][0][method]) for row in rows] for at in range(2))
            moved = [100 * (late / early - 1) for early, late in zip(before, after)]
            print(
                f"quiet {method} {what:<6} {spread(before, '{:.2f}')} ms, then {spread(after, '{:.2f}')} ms: "
                f"{100 * (statistics.median(after) / statistics.median(before) - 1):+.0f} % of medians, {spread(moved, '{:+.0f}')} %"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
