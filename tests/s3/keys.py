#!/usr/bin/env python3
"""Access keys that are replaced, limited and revoked while clients use them.

    . DIR/dev.env; keys.py --mesh PROGRAM [--rotations 8] [--within 1]

A user's clients put and get all the time. Its key is replaced again and again: another one is made, they take it, the first is
revoked; and each time the tenant's own key is replaced too, under which all is encrypted. Then its rights are taken down to reading and given back, and at last the user is taken out. Expected: no request of a client
that may fails, ever; what may not is refused from --within seconds after the order was answered on, and stays so. Exit code 1 if not.
"""

import argparse
import os
import shlex
import subprocess
import sys
import threading
import time

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

CLIENTS, PATIENCE_S, PROBES = 5, 60, 30
TENANT, USER, BUCKET = "rotating", "load", "rotating-bucket"


def s3_of(key):
    return boto3.session.Session().client(
        "s3",
        aws_access_key_id=key["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=key["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


class Load:
    """Clients that take whatever key is the present one."""

    def __init__(self, key):
        self.present, self.served = s3_of(key), [0] * CLIENTS
        self.failed, self.over = [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        body = os.urandom(20_000 + number)
        while not self.over.is_set():
            s3 = self.present
            try:
                s3.put_object(Bucket=BUCKET, Key=f"load-{number}", Body=body)
                if s3.get_object(Bucket=BUCKET, Key=f"load-{number}")["Body"].read() != body:
                    raise ValueError("other bytes came back")
                self.served[number] += 1
            except Exception as error:  # pylint: disable=broad-except
                self.failed.append(repr(error))
                return

    def go_on(self):
        """Until each of them has begun and ended a round since."""
        before, until = list(self.served), time.monotonic() + PATIENCE_S
        while any(now <= then + 1 for now, then in zip(self.served, before)):
            if self.failed or time.monotonic() > until:
                sys.exit(f"clients that may were refused, or wait: {self.failed}")
            time.sleep(0.01)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.failed:
            sys.exit(f"clients that may were refused: {self.failed}")


def refused_soon(ask, codes, what, within):
    """From so many seconds from now on at the latest, and for good. Gives how long it was not."""
    began, last, refused = time.monotonic(), 0.0, 0
    while refused < PROBES:
        at = time.monotonic() - began
        try:
            ask()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in codes:
                sys.exit(f"{what}: {code}")
            refused += 1
        else:
            if at > within or refused:
                sys.exit(f"{what}: served {at:.2f} s after it was ordered not to be, after {refused} refusals")
            last = time.monotonic() - began
    return last


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", default="mesh")
    parser.add_argument("--rotations", type=int, default=8)
    parser.add_argument("--within", type=float, default=1.0, help="seconds, on a machine that does nothing else")
    args = parser.parse_args()

    def mesh(*command):
        done = subprocess.run([args.mesh, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"mesh {' '.join(command)}: {done.stderr}")
        return done.stdout

    def new_key(*more):
        lines = mesh("key", "create", TENANT, USER, *more).splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines)

    mesh("tenant", "create", TENANT)
    key, until = new_key("--allow", "*=all"), time.monotonic() + PATIENCE_S
    while True:
        try:
            s3_of(key).create_bucket(Bucket=BUCKET)
            break
        except ClientError as error:
            if time.monotonic() > until:
                sys.exit(f"the tenant is not served: {error}")
    load, lags = Load(key), []
    load.go_on()
    for turn in range(args.rotations):
        s3_of(key).put_object(Bucket=BUCKET, Key=f"before-{turn}", Body=b"before %d" % turn)
        mesh("tenant", "rotate-key", TENANT)
        old, key = key, new_key()
        load.present = s3_of(key)
        load.go_on()
        prober = s3_of(old)
        prober.list_objects_v2(Bucket=BUCKET)
        mesh("key", "revoke", old["AWS_ACCESS_KEY_ID"])
        probe = lambda: prober.get_object(Bucket=BUCKET, Key="load-0")  # noqa: E731
        lags.append(refused_soon(probe, {"InvalidAccessKeyId"}, "a revoked key", args.within))
        load.go_on()
    load.end()
    s3 = s3_of(key)
    for turn in range(args.rotations):
        body = s3.get_object(Bucket=BUCKET, Key=f"before-{turn}")["Body"].read()
        if body != b"before %d" % turn:
            sys.exit(f"what was stored before a key was replaced came back as {body!r}")
    mesh("key", "grant", TENANT, USER, "--allow", f"{BUCKET}=read")
    put = lambda: s3.put_object(Bucket=BUCKET, Key="late", Body=b"late")  # noqa: E731
    lags.append(refused_soon(put, {"AccessDenied"}, "a write by who may read", args.within))
    s3.get_object(Bucket=BUCKET, Key="load-0")["Body"].read()
    mesh("key", "grant", TENANT, USER, "--allow", f"{BUCKET[:5]}*=read,write")
    until = time.monotonic() + args.within
    while True:
        try:
            put()
            break
        except ClientError as error:
            if time.monotonic() > until:
                sys.exit(f"a write by who may write again: {error}")
    other = s3_of(new_key())
    mesh("key", "revoke", TENANT, "--user", USER)
    for client in (s3, other):
        get = lambda client=client: client.get_object(Bucket=BUCKET, Key="load-0")  # noqa: E731
        lags.append(refused_soon(get, {"InvalidAccessKeyId"}, "a user that is no more", args.within))
    print(f"{sum(load.served)} rounds, {len(lags)} orders; the last that was served: {1000 * max(lags):.0f} ms after its order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
