#!/usr/bin/env python3
"""Clients that stop, and a server that is told to: what others see of it.

    AWS_ENDPOINT_URL=http://host:port AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… MESH_BUCKET=… limits.py WHAT

`readers PID`: 300 clients ask for objects of 32 MiB and do not read; the process PID stays under 1 GiB, small requests of
others pass in 2 s, a large one passes, and when all have gone the memory goes back to the system.
`stopping`: reads and stores 24 MiB slowly, prints `begun` once all are under way, and expects each to come to a good end,
although the server is told to stop then.
Exit code 1 if anything is not so.
"""

import concurrent.futures
import http.client
import os
import socket
import sys
import threading
import time
import urllib.parse

import boto3
from botocore.client import Config

MIB = 1 << 20
BUCKET = os.environ["MESH_BUCKET"]
S3 = boto3.client(
    "s3",
    config=Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        max_pool_connections=16,
    ),
)


def target(method, key):
    """Host, port and target of a presigned request."""
    operation = {"GET": "get_object", "PUT": "put_object"}[method]
    url = urllib.parse.urlsplit(S3.generate_presigned_url(operation, Params={"Bucket": BUCKET, "Key": key}))
    return url.hostname, url.port, url.path + "?" + url.query


def resident(pid):
    """MiB that a process has."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def readers(pid):
    S3.put_object(Bucket=BUCKET, Key="big", Body=os.urandom(32 * MIB))
    S3.put_object(Bucket=BUCKET, Key="small", Body=b"x" * 1000)
    time.sleep(5)
    idle = resident(pid)
    stopped = []
    host, port, path = target("GET", "big")
    for _ in range(300):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect((host, port))
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
        stopped.append(sock)
    most, slowest, until = 0, 0, time.monotonic() + 12
    while time.monotonic() < until:
        began = time.monotonic()
        S3.get_object(Bucket=BUCKET, Key="small")["Body"].read()
        S3.put_object(Bucket=BUCKET, Key="small", Body=b"x" * 1000)
        slowest = max(slowest, time.monotonic() - began)
        most = max(most, resident(pid))
        time.sleep(0.1)
    whole = None
    while whole is None:
        try:
            whole = len(S3.get_object(Bucket=BUCKET, Key="big")["Body"].read())
        except S3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "SlowDown" or time.monotonic() > until + 30:
                raise
    for sock in stopped:
        sock.close()
    after, until = resident(pid), time.monotonic() + 60
    while after > 2 * idle + 100 and time.monotonic() < until:
        time.sleep(1)
        after = resident(pid)
    print(f"idle {idle} MiB, most {most} MiB, after {after} MiB; slowest two small requests {slowest:.2f} s")
    assert most < 1024, f"{most} MiB"
    assert slowest < 4, f"{slowest} s"
    assert whole == 32 * MIB
    assert after <= 2 * idle + 100, f"{after} MiB after {idle} MiB"


def stopping():
    data = os.urandom(24 * MIB)
    S3.put_object(Bucket=BUCKET, Key="big", Body=data)
    under_way = threading.Barrier(7)

    def steps():
        """Two seconds, the server being told to stop after a quarter of one."""
        for step in range(96):
            if step == 12:
                under_way.wait(30)
            time.sleep(0.02)
            yield step

    def get():
        body = S3.get_object(Bucket=BUCKET, Key="big")["Body"]
        came = b"".join(body.read(MIB // 4) for _ in steps())
        return came == data

    def put(number):
        pieces = (data[step * MIB // 4 : (step + 1) * MIB // 4] for step in steps())
        host, port, path = target("PUT", f"put-{number}")
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.request("PUT", path, body=pieces, headers={"content-length": str(len(data))})
        return connection.getresponse().status == 200

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(get) for _ in range(3)] + [pool.submit(put, number) for number in range(3)]
        under_way.wait(30)
        print("begun", flush=True)
        ended = [job.result() for job in jobs]
    assert all(ended), ended


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"readers": readers, "stopping": stopping}[what](*arguments)
