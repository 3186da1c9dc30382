#!/usr/bin/env python3
"""Stores a data set in an S3 bucket and reads every byte of it back.

    AWS_ENDPOINT_URL=http://host:port AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… dataset.py [--bytes 1G] [--seed N]

Names, sizes and contents follow from the seed and the number of bytes alone, so a data set can be written now and
verified later by another process (--phase write, --phase verify, --phase delete; default: all three but delete unless
--delete is given). Nothing is kept in memory but a few blocks a worker. Throughput goes to stderr; stdout has one line:
the verdict. The exit code is 1 unless every byte is as it was stored.
"""

import argparse
import concurrent.futures
import io
import os
import random
import sys
import threading
import time

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK = MIB
# Around everything that has an edge: words, pages, segments, stripes, parts.
SIZES = [0, 1, 2, 3, 15, 16, 17, 511, 512, 4095, 4096, 4097, 65535, 65536, 65537, 999_983]
SIZES += [MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 5 * MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1]
SIZES += [16 * MIB + 3, 33 * MIB - 5, 64 * MIB + 13, 100 * MIB + 1, 210 * MIB + 17]
NAMES = ["plain", "with space", "plus+%", "é ü", "日本語", "a/b/c", "x//y", "q?#&=", "'\"<>", "~-_.!*()", "tab\t", "😀"]


class Content:
    """The bytes of one file, any part of them at any time."""

    def __init__(self, seed, number, name, size):
        self.seed, self.number, self.name, self.size = seed, number, name, size

    def block(self, at):
        length = min(BLOCK, self.size - at * BLOCK)
        return random.Random(f"{self.seed}/{self.number}/{at}").randbytes(length)

    def blocks(self):
        return (self.block(at) for at in range((self.size + BLOCK - 1) // BLOCK))

    def range(self, first, end):
        parts = [self.block(at) for at in range(first // BLOCK, (end + BLOCK - 1) // BLOCK)]
        return b"".join(parts)[first - first // BLOCK * BLOCK :][: end - first]


class Reader(io.RawIOBase):
    """A file-like over a content: what upload_fileobj reads from."""

    def __init__(self, content):
        self.blocks, self.rest = content.blocks(), b""

    def readable(self):
        return True

    def readinto(self, target):
        if not self.rest:
            self.rest = next(self.blocks, b"")
        taken = self.rest[: len(target)]
        self.rest = self.rest[len(taken) :]
        target[: len(taken)] = taken
        return len(taken)


def plan(seed, total):
    """The files of a data set."""
    rng = random.Random(f"plan/{seed}")
    sizes = [size for size in SIZES if size <= total // 4]
    while sum(sizes) < total:
        left = total - sum(sizes)
        size = int(2 ** rng.uniform(10, 25)) | 1
        sizes.append(min(size, max(left, 1)))
    files = []
    for number, size in enumerate(sizes):
        name = f"dataset-{seed}/{number:05}/{NAMES[number % len(NAMES)]}-{size}"
        files.append(Content(seed, number, name, size))
    return files


class Tally:
    """What was done, from many threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.bytes = 0
        self.errors = []

    def add(self, size):
        with self.lock:
            self.bytes += size

    def wrong(self, what):
        with self.lock:
            self.errors.append(what)
        print(f"error: {what}", file=sys.stderr, flush=True)


def store(s3, bucket, content, transfer):
    s3.upload_fileobj(io.BufferedReader(Reader(content), BLOCK), bucket, content.name, Config=transfer)


def verify(s3, bucket, content, tally):
    head = s3.head_object(Bucket=bucket, Key=content.name)
    if head["ContentLength"] != content.size:
        tally.wrong(f"{content.name!r} has {head['ContentLength']} bytes, not {content.size}")
        return
    body = s3.get_object(Bucket=bucket, Key=content.name)["Body"]
    for at, expected in enumerate(content.blocks()):
        got = b""
        while len(got) < len(expected):
            more = body.read(len(expected) - len(got))
            if not more:
                break
            got += more
        if got != expected:
            tally.wrong(f"{content.name!r} differs in the {at}-th MiB")
            return
        tally.add(len(got))
    if body.read(1):
        tally.wrong(f"{content.name!r} goes on behind its end")
    if content.size > 2:
        rng = random.Random(f"ranges/{content.seed}/{content.number}")
        for _ in range(2):
            first = rng.randrange(content.size)
            end = min(content.size, first + 1 + rng.randrange(3 * MIB))
            got = s3.get_object(Bucket=bucket, Key=content.name, Range=f"bytes={first}-{end - 1}")["Body"].read()
            if got != content.range(first, end):
                tally.wrong(f"{content.name!r} differs in the range {first}-{end - 1}")


def phase(name, files, workers, tally, work):
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # The large ones first, so that none is left alone at the end.
        jobs = {pool.submit(work, one): one for one in sorted(files, key=lambda one: -one.size)}
        for job in concurrent.futures.as_completed(jobs):
            if job.exception() is not None:
                error = job.exception()
                tally.wrong(f"{name} {jobs[job].name!r}: {type(error).__name__}: {error}")
    seconds = max(time.monotonic() - began, 1e-9)
    total = sum(one.size for one in files)
    print(f"{name}: {len(files)} files, {total} bytes in {seconds:.1f} s: {total / seconds / MIB:.1f} MiB/s", file=sys.stderr)


def listed(s3, bucket, files, tally):
    got = {}
    prefix = f"dataset-{files[0].seed}/"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        got.update({entry["Key"]: entry["Size"] for entry in page.get("Contents", [])})
    expected = {one.name: one.size for one in files}
    for name in sorted(set(expected) | set(got)):
        if got.get(name) != expected.get(name):
            tally.wrong(f"listing: {name!r} has {got.get(name)}, not {expected.get(name)}")


def size_of(text):
    unit = {"K": KIB, "M": MIB, "G": GIB}.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def main():
    env = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default=env("AWS_ENDPOINT_URL"))
    parser.add_argument("--access-key", default=env("AWS_ACCESS_KEY_ID"))
    parser.add_argument("--secret-key", default=env("AWS_SECRET_ACCESS_KEY"))
    parser.add_argument("--region", default=env("AWS_REGION") or "us-east-1")
    parser.add_argument("--bucket", default=env("MESH_BUCKET") or "mesh-dataset")
    parser.add_argument("--bytes", type=size_of, default=GIB, help="at least so many, as 1G or 500M (default 1G)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--part", type=size_of, default=8 * MIB, help="part size and multipart threshold")
    parser.add_argument("--phase", choices=["all", "write", "verify", "delete"], default="all")
    parser.add_argument("--delete", action="store_true", help="delete the data set at the end")
    args = parser.parse_args()
    if not (args.endpoint and args.access_key and args.secret_key):
        parser.error("an endpoint and keys are needed: options, or AWS_ENDPOINT_URL and AWS_*_KEY*")
    s3 = boto3.client(
        "s3",
        endpoint_url=args.endpoint,
        region_name=args.region,
        aws_access_key_id=args.access_key,
        aws_secret_access_key=args.secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"max_attempts": 8, "mode": "standard"},
            max_pool_connections=args.workers * 4,
        ),
    )
    transfer = TransferConfig(multipart_threshold=args.part, multipart_chunksize=args.part, max_concurrency=3)
    files = plan(args.seed, args.bytes)
    tally = Tally()
    if args.phase in ("all", "write"):
        try:
            s3.create_bucket(Bucket=args.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise
        phase("write", files, args.workers, tally, lambda one: store(s3, args.bucket, one, transfer))
    if args.phase in ("all", "verify"):
        phase("verify", files, args.workers, tally, lambda one: verify(s3, args.bucket, one, tally))
        listed(s3, args.bucket, files, tally)
    if args.phase == "delete" or args.delete:
        delete = lambda one: s3.delete_object(Bucket=args.bucket, Key=one.name)  # noqa: E731
        phase("delete", files, args.workers, tally, delete)
    total = sum(one.size for one in files)
    if tally.errors:
        print(f"FAIL: {len(tally.errors)} errors; the first: {tally.errors[0]}")
        return 1
    read = f", {tally.bytes} bytes read back identical" if args.phase in ("all", "verify") else ""
    print(f"PASS: {args.phase}: {len(files)} files of {total} bytes, the largest {max(one.size for one in files)}{read}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
