#!/usr/bin/env python3
"""What TLS costs the server, in CPU time a MiB, beside a mesh without it.

    tls_cost.py --mesh target/release/mesh [--rounds 7] [--bytes 256M] [--object 4M]

Starts two meshes of development, one with --tls, and puts and gets the same objects in one and the other in turn, by one client
that counts for nothing: what is measured is utime + stime of the mesh's process, all threads. Requests are presigned, over one
connection that is kept, so that both are asked for the same: S3 clients sign a body's SHA-256 over HTTP and leave that to TLS over
HTTPS, which costs the server more than TLS does. That is a third line: boto3 as it comes, PUT alone. Small requests (GET of 1 KiB)
and handshakes, each with a connection of its own, are told a piece.

Stdout: median and spread over the rounds, the difference, and what `openssl speed` of the same machine says AES-256-GCM costs for
records of 16 KiB, which is what no TLS can be below. Nothing is asserted of it.
"""

import argparse
import http.client
import os
import re
import shlex
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

import boto3
from botocore.client import Config

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from host_cpu import cpu_seconds, size, spread  # noqa: E402: beside this one

MIB, READY, HANDSHAKES, SMALL = 1 << 20, 60, 300, 2000


class Mesh:
    def __init__(self, program, more):
        self.folder = tempfile.TemporaryDirectory(prefix="tls-cost-")
        environment = {**os.environ, "MESH_LOG": "error,s3s=off"}
        self.process = subprocess.Popen(
            [program, "dev", "--data", self.folder.name, "--s3-port", "0", *more], stdout=subprocess.DEVNULL, env=environment
        )
        told, until = os.path.join(self.folder.name, "dev.env"), time.monotonic() + READY
        while not os.path.exists(told):
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit("the mesh does not start")
            time.sleep(0.05)
        with open(told, encoding="utf-8") as lines:
            words = [shlex.split(line)[1] for line in lines if line.startswith("export ")]
        told = dict(word.split("=", 1) for word in words)
        self.bucket = told["MESH_BUCKET"]
        self.url = urllib.parse.urlsplit(told["AWS_ENDPOINT_URL"])
        bundle = told.get("AWS_CA_BUNDLE")
        self.trust = ssl.create_default_context(cafile=bundle) if bundle else None
        self.s3 = boto3.client(
            "s3",
            endpoint_url=told["AWS_ENDPOINT_URL"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
            region_name=told["AWS_REGION"],
            verify=bundle,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        self.connection = self.connect()

    def connect(self):
        made = http.client.HTTPSConnection if self.trust else http.client.HTTPConnection
        more = {"context": self.trust} if self.trust else {}
        return made(self.url.hostname, self.url.port, timeout=60, **more)

    def ask(self, operation, key, body=None):
        url = self.s3.generate_presigned_url(operation, Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=3600)
        url = urllib.parse.urlsplit(url)
        self.connection.request("PUT" if body else "GET", f"{url.path}?{url.query}", body)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            sys.exit(f"{operation}: {answer.status} {data[:300]}")
        return data

    def used(self, work):
        before = cpu_seconds(self.process.pid)
        work()
        return cpu_seconds(self.process.pid) - before

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.folder.cleanup()

    def connections(self):
        """CPU milliseconds of a connection with one request that is refused, and with a handshake under TLS."""

        def all_of_them():
            for _ in range(HANDSHAKES):
                connection = self.connect()
                connection.request("GET", "/", headers={"connection": "close"})
                connection.getresponse().read()
                connection.close()

        return self.used(all_of_them) * 1000 / HANDSHAKES


def round_of(mesh, number, args, body):
    keys = [f"tls/{number}/{at}" for at in range(args.bytes // args.object)]
    mib = len(keys) * args.object / MIB

    def get():
        for key in keys:
            if mesh.ask("get_object", key) != body:
                sys.exit("other bytes came back")

    mesh.ask("put_object", "tls/small", b"x" * 1024)
    result = {
        "PUT, presigned": mesh.used(lambda: [mesh.ask("put_object", key, body) for key in keys]) * 1000 / mib,
        "GET, presigned": mesh.used(get) * 1000 / mib,
        "PUT, boto3": mesh.used(lambda: [mesh.s3.put_object(Bucket=mesh.bucket, Key=key, Body=body) for key in keys])
        * 1000
        / mib,
        "GET of 1 KiB": mesh.used(lambda: [mesh.ask("get_object", "tls/small") for _ in range(SMALL)]) * 1000 / SMALL,
    }
    for key in keys:
        mesh.s3.delete_object(Bucket=mesh.bucket, Key=key)
    return result


def primitive():
    """Milliseconds a MiB of AES-256-GCM in records."""
    said = subprocess.run(
        ["openssl", "speed", "-seconds", "2", "-bytes", "16384", "-evp", "aes-256-gcm"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # In thousands of bytes a second.
    thousands = float(re.search(r"^AES-256-GCM\s+([\d.]+)k", said, re.MULTILINE | re.IGNORECASE)[1])
    return MIB / thousands


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", default="mesh")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bytes", type=size, default=size("256M"))
    parser.add_argument("--object", type=size, default=size("4M"))
    args = parser.parse_args()
    body = os.urandom(args.object)
    meshes = {"plain": Mesh(args.mesh, []), "TLS": Mesh(args.mesh, ["--tls"])}
    try:
        for mesh in meshes.values():
            round_of(mesh, "warm", argparse.Namespace(bytes=4 * args.object, object=args.object), body)
        rounds = []
        for number in range(args.rounds):
            rounds.append({name: round_of(mesh, number, args, body) for name, mesh in meshes.items()})
        shakes = {name: [mesh.connections() for _ in range(args.rounds)] for name, mesh in meshes.items()}
    finally:
        for mesh in meshes.values():
            mesh.stop()
    print(f"{os.cpu_count()} cores; {args.rounds} rounds of {args.bytes // args.object} objects of {args.object} bytes, in turn")
    for what in rounds[0]["plain"]:
        unit = "ms a request" if "KiB" in what else "ms a MiB"
        plain, tls = ([one[name][what] for one in rounds] for name in ("plain", "TLS"))
        more = [with_tls - without for without, with_tls in zip(plain, tls)]
        ratio = statistics.median(tls) / statistics.median(plain)
        print(
            f"{what:<15} plain {spread(plain, '{:.3f}')}, TLS {spread(tls, '{:.3f}')} {unit}: {ratio:.2f} times, "
            f"{spread(more, '{:+.3f}')} more"
        )
    for name, took in shakes.items():
        print(f"a connection with a request that is refused, {name}: {spread(took, '{:.2f}')} ms")
    print(f"AES-256-GCM in records of 16 KiB, openssl speed: {primitive():.3f} ms a MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
