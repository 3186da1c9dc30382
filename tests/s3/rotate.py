#!/usr/bin/env python3
"""Clients over TLS whose server's certificate is replaced meanwhile: none of their requests fails, whatever connection it takes.

    AWS_ENDPOINT_URL=https://host:port AWS_CA_BUNDLE=… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… MESH_BUCKET=… rotate.py

Prints `begun` once all clients have been served, and after each line that it reads waits until new connections have another
certificate, and all clients were served since: `replaced`. After the line `stays` new connections have to have the same one
for five seconds, which is longer than two looks of a node: `stayed`. An empty line: says how many requests there were, and ends.
Exit code 1 if one failed.
"""

import os
import ssl
import sys
import threading
import time
import urllib.parse

import boto3
from botocore.client import Config

BUCKET = os.environ["MESH_BUCKET"]
URL = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"])
CLIENTS = 6
PATIENCE_S = 60
STAYS_S = 5


def client():
    return boto3.session.Session().client(
        "s3", config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    )


class Load:
    def __init__(self):
        self.served = [0] * CLIENTS
        self.failed = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        body = os.urandom(200_000 + number)
        kept = client()
        while not self.over.is_set():
            try:
                # Half of them make a connection for each request.
                s3 = kept if number % 2 else client()
                s3.put_object(Bucket=BUCKET, Key=f"rotate-{number}", Body=body)
                if s3.get_object(Bucket=BUCKET, Key=f"rotate-{number}")["Body"].read() != body:
                    raise ValueError("other bytes came back")
                self.served[number] += 1
            except Exception as error:  # pylint: disable=broad-except
                self.failed.append(repr(error))
                return

    def until_served(self):
        before = list(self.served)
        until(lambda: self.failed or all(now > then + 1 for now, then in zip(self.served, before)))

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def until(holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            sys.exit("it did not come to that in time")
        time.sleep(0.05)


def certificate():
    return ssl.get_server_certificate((URL.hostname, URL.port), ca_certs=os.environ["AWS_CA_BUNDLE"])


def main():
    load = Load()
    load.until_served()
    known = certificate()
    print("begun", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        if line.strip() == "stays":
            end = time.monotonic() + STAYS_S
            while time.monotonic() < end:
                if certificate() != known:
                    sys.exit("new connections have another certificate")
            load.until_served()
            print("stayed", flush=True)
            continue
        until(lambda: load.failed or certificate() != known)
        known = certificate()
        load.until_served()
        print("replaced", flush=True)
    load.end()
    print(f"{2 * sum(load.served)} requests, {len(load.failed)} failed", flush=True)
    if load.failed:
        sys.exit("\n".join(load.failed))


main()
