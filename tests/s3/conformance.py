#!/usr/bin/env python3
"""Exercises an S3 endpoint with boto3 and prints one line a check.

    AWS_ENDPOINT_URL=http://host:port AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… conformance.py [--only WORD]

The bucket (MESH_BUCKET, or one with a random name) is made if it does not exist, must be the caller's, and is left
without what this script put into it. Ends with "N passed, M failed"; the exit code is 1 if anything failed.
"""

import argparse
import base64
import concurrent.futures
import datetime
import hashlib
import http.client
import io
import os
import secrets
import ssl
import sys
import time
import traceback
import urllib.parse
import zlib

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.client import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

CHECKS = []
MIB = 1 << 20


def check(function):
    CHECKS.append(function)
    return function


class World:
    """What checks share."""

    def __init__(self, args):
        self.args = args
        self.s3 = self.client()
        self.bucket = args.bucket or f"mesh-conformance-{secrets.token_hex(6)}"
        self.prefix = f"conformance-{secrets.token_hex(4)}/"

    def client(self, access=None, secret=None, **config):
        return boto3.client(
            "s3",
            endpoint_url=self.args.endpoint,
            region_name=self.args.region,
            aws_access_key_id=access or self.args.access_key,
            aws_secret_access_key=secret or self.args.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, **config),
        )

    def key(self, name):
        return self.prefix + name

    def put(self, name, body=b"hello", **more):
        return self.s3.put_object(Bucket=self.bucket, Key=self.key(name), Body=body, **more)

    def get(self, name, **more):
        answer = self.s3.get_object(Bucket=self.bucket, Key=self.key(name), **more)
        return answer["Body"].read(), answer

    def head(self, name, **more):
        return self.s3.head_object(Bucket=self.bucket, Key=self.key(name), **more)

    def raw(self, method, key, body=b"", headers=None, query="", trailer=False, bucket=None, access=None, secret=None):
        """A signed request of our own making: status, headers, body."""
        path = "/" + (bucket or self.bucket) + ("/" + urllib.parse.quote(key, safe="/~") if key is not None else "")
        url = self.args.endpoint.rstrip("/") + path + (f"?{query}" if query else "")
        request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
        request.context["payload_signing_enabled"] = not trailer
        if trailer:
            request.context["checksum"] = {"request_algorithm": {"in": "trailer", "algorithm": "crc32"}}
        credentials = Credentials(access or self.args.access_key, secret or self.args.secret_key)
        S3SigV4Auth(credentials, "s3", self.args.region).add_auth(request)
        return self.plain(method, path + (f"?{query}" if query else ""), dict(request.headers.items()), body)

    def plain(self, method, target, headers, body=b""):
        parsed = urllib.parse.urlparse(self.args.endpoint)
        if parsed.scheme == "https":
            trust = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
            connection = http.client.HTTPSConnection(parsed.hostname, parsed.port, timeout=60, context=trust)
        else:
            connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=60)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


def refused(code, call, status=None):
    """Asserts that `call` fails with `code` (one, or any of several)."""
    codes = (code,) if isinstance(code, str) else code
    try:
        call()
    except ClientError as error:
        got = error.response["Error"]["Code"]
        assert got in codes, f"{got}, expected {' or '.join(codes)}"
        if status is not None:
            got = error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert got == status, f"HTTP {got}, expected {status}"
        return
    raise AssertionError(f"succeeded, expected {' or '.join(codes)}")


def same(got, expected, what=""):
    assert got == expected, f"{what} {str(got)[:200]!r}, expected {str(expected)[:200]!r}"


def md5(body):
    return hashlib.md5(body).hexdigest()


def b64(data):
    return base64.b64encode(data).decode()


def crc32(body):
    return b64(zlib.crc32(body).to_bytes(4, "big"))


def payload(size, seed=1):
    """`size` bytes that differ everywhere."""
    out = bytearray()
    block = 0
    while len(out) < size:
        out += hashlib.sha512(f"{seed}/{block}".encode()).digest() * 16
        out += hashlib.sha512(f"{seed}/{block}/x".encode()).digest()
        block += 1
    return bytes(out[:size])


# --- buckets


@check
def bucket_lifecycle(w):
    name = f"mesh-life-{secrets.token_hex(6)}"
    w.s3.create_bucket(Bucket=name)
    assert name in [bucket["Name"] for bucket in w.s3.list_buckets()["Buckets"]]
    w.s3.head_bucket(Bucket=name)
    refused("BucketAlreadyOwnedByYou", lambda: w.s3.create_bucket(Bucket=name), 409)
    w.s3.put_object(Bucket=name, Key="k", Body=b"x")
    refused("BucketNotEmpty", lambda: w.s3.delete_bucket(Bucket=name), 409)
    w.s3.delete_object(Bucket=name, Key="k")
    w.s3.delete_bucket(Bucket=name)
    refused("404", lambda: w.s3.head_bucket(Bucket=name), 404)
    refused("NoSuchBucket", lambda: w.s3.delete_bucket(Bucket=name), 404)
    w.s3.create_bucket(Bucket=name)
    same(w.s3.list_objects_v2(Bucket=name)["KeyCount"], 0)
    w.s3.delete_bucket(Bucket=name)


@check
def bucket_location_constraint_is_accepted(w):
    name = f"mesh-place-{secrets.token_hex(6)}"
    w.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert "LocationConstraint" in w.s3.get_bucket_location(Bucket=name)
    w.s3.delete_bucket(Bucket=name)


@check
def bucket_names_are_checked(w):
    for name in ["ab", "UPPER-case", "under_score"]:
        status, _, body = w.raw("PUT", None, bucket=name)
        same((status, b"InvalidBucketName" in body), (400, True), name)


@check
def bucket_that_does_not_exist(w):
    none = f"mesh-none-{secrets.token_hex(6)}"
    for call in [
        lambda: w.s3.get_object(Bucket=none, Key="k"),
        lambda: w.s3.put_object(Bucket=none, Key="k", Body=b"x"),
        lambda: w.s3.list_objects_v2(Bucket=none),
        lambda: w.s3.list_objects(Bucket=none),
        lambda: w.s3.delete_object(Bucket=none, Key="k"),
        lambda: w.s3.delete_objects(Bucket=none, Delete={"Objects": [{"Key": "k"}]}),
        lambda: w.s3.create_multipart_upload(Bucket=none, Key="k"),
        lambda: w.s3.list_multipart_uploads(Bucket=none),
        lambda: w.s3.get_bucket_location(Bucket=none),
    ]:
        refused("NoSuchBucket", call, 404)


# --- objects


@check
def objects_of_many_sizes(w):
    for size in [0, 1, 100, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 7]:
        body = payload(size, size)
        put = w.put("sizes", body)
        same(put["ETag"], f'"{md5(body)}"', "ETag")
        got, answer = w.get("sizes")
        assert got == body, f"{size} bytes came back different"
        same(answer["ContentLength"], size)
        same(answer["ETag"], put["ETag"])
        same(w.head("sizes")["ContentLength"], size)


@check
def overwriting_replaces(w):
    w.put("over", b"first")
    w.put("over", payload(3 * MIB))
    w.put("over", b"last")
    same(w.get("over")[0], b"last")


@check
def missing_objects(w):
    refused("NoSuchKey", lambda: w.get("missing"), 404)
    refused("404", lambda: w.head("missing"), 404)
    w.s3.delete_object(Bucket=w.bucket, Key=w.key("missing"))


@check
def deleting(w):
    w.put("gone")
    w.s3.delete_object(Bucket=w.bucket, Key=w.key("gone"))
    refused("NoSuchKey", lambda: w.get("gone"), 404)


@check
def standard_headers_are_kept(w):
    expires = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    given = {
        "ContentType": "text/x-mesh; charset=utf-8",
        "CacheControl": "max-age=60, public",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de-CH",
        "Expires": expires,
    }
    w.put("headers", b"hello", **given)
    for answer in [w.head("headers"), w.get("headers")[1]]:
        for name, value in given.items():
            same(answer[name], value, name)
        assert abs((datetime.datetime.now(datetime.timezone.utc) - answer["LastModified"]).total_seconds()) < 600
    w.put("headers", b"hello")
    same(w.head("headers")["ContentType"], "binary/octet-stream")


@check
def response_overrides(w):
    w.put("overrides", b"hello", ContentType="text/plain")
    overrides = {
        "ResponseContentType": "image/png",
        "ResponseCacheControl": "no-store",
        "ResponseContentDisposition": "inline",
        "ResponseContentEncoding": "identity",
        "ResponseContentLanguage": "fr",
    }
    for answer in [w.get("overrides", **overrides)[1], w.head("overrides", **overrides)]:
        for name, value in overrides.items():
            same(answer[name.removeprefix("Response")], value, name)


@check
def user_metadata(w):
    metadata = {"color": "green", "with-dash": "a b  c", "empty": "", "long": "v" * 1900}
    w.put("meta", b"hello", Metadata=metadata)
    same(w.head("meta")["Metadata"], metadata)
    refused("MetadataTooLarge", lambda: w.put("meta2", b"x", Metadata={"k": "v" * 2048}), 400)
    w.put("meta2", b"x", Metadata={"k": "v" * 2047})
    refused(
        "MetadataTooLarge",
        lambda: w.s3.create_multipart_upload(Bucket=w.bucket, Key=w.key("m"), Metadata={"k": "v" * 2048}),
        400,
    )


@check
def ranges(w):
    size = 9 * MIB + 123
    body = payload(size, 5)
    w.put("ranges", body)
    for text, first, end in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB + 1),
        (f"bytes={4 * MIB - 5}-{4 * MIB + 5}", 4 * MIB - 5, 4 * MIB + 6),
        (f"bytes={8 * MIB}-", 8 * MIB, size),
        (f"bytes=5-{size * 2}", 5, size),
        ("bytes=-1", size - 1, size),
        ("bytes=-5000000", size - 5000000, size),
        (f"bytes=-{size * 2}", 0, size),
    ]:
        got, answer = w.get("ranges", Range=text)
        assert got == body[first:end], text
        same(answer["ResponseMetadata"]["HTTPStatusCode"], 206)
        same(answer["ContentRange"], f"bytes {first}-{end - 1}/{size}")
        same(w.head("ranges", Range=text)["ContentLength"], end - first)
    for text in [f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"]:
        refused("InvalidRange", lambda: w.get("ranges", Range=text), 416)
    w.put("nothing", b"")
    refused("InvalidRange", lambda: w.get("nothing", Range="bytes=0-0"), 416)


@check
def conditional_reads(w):
    etag = w.put("if", b"hello")["ETag"]
    modified = w.head("if")["LastModified"]
    earlier, later = modified - datetime.timedelta(hours=1), modified + datetime.timedelta(hours=1)
    same(w.get("if", IfMatch=etag)[0], b"hello")
    same(w.get("if", IfNoneMatch='"other"')[0], b"hello")
    same(w.get("if", IfModifiedSince=earlier)[0], b"hello")
    same(w.get("if", IfUnmodifiedSince=later)[0], b"hello")
    same(w.get("if", IfMatch=etag, IfUnmodifiedSince=earlier)[0], b"hello")
    for call in [w.get, w.head]:
        refused(("304", "NotModified"), lambda: call("if", IfNoneMatch=etag), 304)
        refused(("304", "NotModified"), lambda: call("if", IfModifiedSince=modified), 304)
        refused(("412", "PreconditionFailed"), lambda: call("if", IfMatch='"other"'), 412)
        refused(("412", "PreconditionFailed"), lambda: call("if", IfUnmodifiedSince=earlier), 412)


@check
def conditional_writes(w):
    first = w.put("cond", b"first", IfNoneMatch="*")["ETag"]
    refused("PreconditionFailed", lambda: w.put("cond", b"second", IfNoneMatch="*"), 412)
    refused("PreconditionFailed", lambda: w.put("cond", b"second", IfMatch='"0123"'), 412)
    same(w.get("cond")[0], b"first")
    w.put("cond", b"second", IfMatch=first)
    same(w.get("cond")[0], b"second")
    refused("NotImplemented", lambda: w.put("cond", b"x", IfNoneMatch='"0123"'), 501)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        def attempt(n):
            try:
                w.put("race", b"%d" % n, IfNoneMatch="*")
                return n
            except ClientError:
                return None
        winners = [n for n in pool.map(attempt, range(16)) if n is not None]
    same(len(winners), 1, "winners of a race")
    same(w.get("race")[0], b"%d" % winners[0])


@check
def digests_of_bodies(w):
    body = payload(2 * MIB + 5, 9)
    w.put("digest", body, ContentMD5=b64(hashlib.md5(body).digest()))
    refused("BadDigest", lambda: w.put("digest", body, ContentMD5=b64(hashlib.md5(b"x").digest())), 400)
    refused("InvalidDigest", lambda: w.put("digest", body, ContentMD5="nonsense"), 400)
    refused("BadDigest", lambda: w.put("digest", body, ChecksumCRC32=crc32(b"x")), 400)
    refused("BadDigest", lambda: w.put("digest", body, ChecksumSHA256=b64(hashlib.sha256(b"x").digest())), 400)
    refused("InvalidRequest", lambda: w.put("digest", body, ChecksumCRC32="AAAA"), 400)
    same(w.get("digest")[0], body)


@check
def checksums_are_kept_and_returned(w):
    body = payload(3 * MIB + 1, 4)
    expected = {
        "CRC32": ("ChecksumCRC32", crc32(body)),
        "SHA1": ("ChecksumSHA1", b64(hashlib.sha1(body).digest())),
        "SHA256": ("ChecksumSHA256", b64(hashlib.sha256(body).digest())),
    }
    for algorithm, (field, value) in expected.items():
        put = w.put("sums", body, ChecksumAlgorithm=algorithm)
        same(put[field], value, field)
        got, answer = w.get("sums", ChecksumMode="ENABLED")
        same(answer[field], value, field)
        assert got == body
        head = w.head("sums", ChecksumMode="ENABLED")
        same(head[field], value)
        same(head["ChecksumType"], "FULL_OBJECT")
    ranged = w.get("sums", ChecksumMode="ENABLED", Range="bytes=0-9")[1]
    assert not any(field in ranged for field, _ in expected.values()), "a range with the whole's checksum"
    plain = w.client(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    put = plain.put_object(Bucket=w.bucket, Key=w.key("plain"), Body=body)
    assert put.get("ChecksumCRC64NVME"), "S3's default checksum"
    # CRC-64/NVME of "123456789", as its catalogue has it.
    put = w.raw("PUT", w.key("crc64"), b"123456789", {"x-amz-checksum-crc64nvme": b64(0xAE8B14860A799888.to_bytes(8, "big"))})
    same(put[0], 200)
    put = w.raw("PUT", w.key("crc32c"), b"123456789", {"x-amz-checksum-crc32c": b64(0xE3069283.to_bytes(4, "big"))})
    same(put[0], 200)
    put = w.raw("PUT", w.key("crc32c"), b"12345678X", {"x-amz-checksum-crc32c": b64(0xE3069283.to_bytes(4, "big"))})
    same((put[0], b"BadDigest" in put[2]), (400, True))


@check
def checksum_trailers(w):
    body = payload(3 * MIB + 77, 8)

    def send(chunk, value, announced="x-amz-checksum-crc32"):
        framed = b"".join(
            b"%x\r\n%s\r\n" % (len(body[at : at + chunk]), body[at : at + chunk]) for at in range(0, len(body), chunk)
        )
        framed += b"0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % value.encode()
        headers = {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Trailer": announced,
            "X-Amz-Decoded-Content-Length": str(len(body)),
            "X-Amz-Content-SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }
        return w.raw("PUT", w.key("trailer"), framed, headers, trailer=True)

    for chunk in [8192, MIB, len(body)]:
        status, headers, answer = send(chunk, crc32(body))
        same(status, 200, answer)
        got, answer = w.get("trailer", ChecksumMode="ENABLED")
        assert got == body
        same(answer["ChecksumCRC32"], crc32(body))
        assert "ContentEncoding" not in answer, "aws-chunked is not the object's encoding"
    status, _, answer = send(MIB, crc32(b"x"))
    same((status, b"BadDigest" in answer), (400, True), answer)
    status, _, answer = send(MIB, crc32(body), "x-amz-checksum-sha256")
    same(status, 400, answer)


@check
def lengths_are_checked(w):
    status, _, answer = w.plain(
        "PUT", f"/{w.bucket}/{urllib.parse.quote(w.key('long'))}", {"Content-Length": "0"}, b""
    )
    same(status, 403, answer)
    refused("KeyTooLongError", lambda: w.s3.put_object(Bucket=w.bucket, Key="k" * 1025, Body=b"x"), 400)
    longest = (w.prefix + "k" * 1024)[:1024]
    w.s3.put_object(Bucket=w.bucket, Key=longest, Body=b"x")
    same(w.s3.get_object(Bucket=w.bucket, Key=longest)["Body"].read(), b"x")


@check
def unsupported_headers_are_refused(w):
    refused("NotImplemented", lambda: w.put("x", ServerSideEncryption="aws:kms"), 501)
    refused("AccessControlListNotSupported", lambda: w.put("x", ACL="public-read"), 400)
    refused("NotImplemented", lambda: w.put("x", Tagging="a=b"), 501)
    w.put("x", ACL="bucket-owner-full-control", ServerSideEncryption="AES256")


WEIRD = [
    "plain",
    "with space",
    "two  spaces",
    "plus+plus",
    "percent%25 100%",
    "é/ü/ñ",
    "日本語/キー",
    "emoji-😀",
    "a//b",
    "trailing/",
    "quote'\"<>&",
    "hash#question?",
    "semi;colon:at@comma,=",
    "back\\slash^`{}|~[]!$()*",
    "dot.", "..dots..",
    "tab\there",
    "%2F%20",
]


@check
def any_key(w):
    for name in WEIRD:
        body = name.encode() * 3
        w.put("weird/" + name, body)
        same(w.get("weird/" + name)[0], body, name)
        same(w.head("weird/" + name)["ContentLength"], len(body))
    listed = [
        entry["Key"].removeprefix(w.key("weird/"))
        for page in w.s3.get_paginator("list_objects_v2").paginate(Bucket=w.bucket, Prefix=w.key("weird/"))
        for entry in page["Contents"]
    ]
    same(listed, sorted(WEIRD, key=lambda name: name.encode()))
    answer = w.s3.delete_objects(
        Bucket=w.bucket, Delete={"Objects": [{"Key": w.key("weird/" + name)} for name in WEIRD]}
    )
    same(sorted(one["Key"].removeprefix(w.key("weird/")) for one in answer["Deleted"]), sorted(WEIRD))
    same(w.s3.list_objects_v2(Bucket=w.bucket, Prefix=w.key("weird/"))["KeyCount"], 0)


# --- listings

TREE = ["a", "b/1", "b/2", "b/c/3", "d", "e/1", "f", "g+ /x", "g+ /y", "z"]


def tree(w):
    for name in TREE:
        w.put("tree/" + name, name.encode())


@check
def list_v2(w):
    tree(w)
    base = w.key("tree/")
    plain = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=base)
    same([entry["Key"] for entry in plain["Contents"]], [base + name for name in TREE])
    same([entry["Size"] for entry in plain["Contents"]], [len(name) for name in TREE])
    same([entry["ETag"] for entry in plain["Contents"]], [f'"{md5(name.encode())}"' for name in TREE])
    assert "Owner" not in plain["Contents"][0]
    assert "Owner" in w.s3.list_objects_v2(Bucket=w.bucket, Prefix=base, FetchOwner=True)["Contents"][0]
    after = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=base, StartAfter=base + "d")
    same([entry["Key"] for entry in after["Contents"]], [base + name for name in TREE[5:]])
    none = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=base, MaxKeys=0)
    same((none["KeyCount"], none["IsTruncated"]), (0, False))
    rolled = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=base, Delimiter="/")
    same([entry["Key"] for entry in rolled["Contents"]], [base + name for name in ["a", "d", "f", "z"]])
    same([one["Prefix"] for one in rolled["CommonPrefixes"]], [base + name for name in ["b/", "e/", "g+ /"]])
    same(rolled["KeyCount"], 7)
    refused(
        "InvalidArgument", lambda: w.s3.list_objects_v2(Bucket=w.bucket, ContinuationToken="?nonsense"), 400
    )


@check
def list_v2_pages(w):
    tree(w)
    base = w.key("tree/")
    for size in range(1, 12):
        for delimiter, expected in [("", TREE), ("/", ["a", "b/", "d", "e/", "f", "g+ /", "z"])]:
            more = {"Delimiter": delimiter} if delimiter else {}
            got, token, pages = [], None, 0
            while True:
                if token:
                    more["ContinuationToken"] = token
                page = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=base, MaxKeys=size, **more)
                names = [entry["Key"] for entry in page.get("Contents", [])]
                names += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
                assert len(names) <= size and page["KeyCount"] == len(names)
                got += sorted(names)
                pages += 1
                token = page.get("NextContinuationToken")
                same(page["IsTruncated"], token is not None)
                if not token:
                    break
                assert pages < 50, "pages without end"
            same(got, [base + name for name in expected], f"pages of {size}")


@check
def list_v1(w):
    tree(w)
    base = w.key("tree/")
    for size in [1, 2, 3, 7, 1000]:
        for delimiter, expected in [("", TREE), ("/", ["a", "b/", "d", "e/", "f", "g+ /", "z"])]:
            got, marker = [], ""
            while True:
                page = w.s3.list_objects(
                    Bucket=w.bucket, Prefix=base, MaxKeys=size, Marker=marker, Delimiter=delimiter
                )
                names = [entry["Key"] for entry in page.get("Contents", [])]
                assert all("Owner" in entry for entry in page.get("Contents", []))
                names += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
                got += sorted(names)
                if not page["IsTruncated"]:
                    break
                marker = page.get("NextMarker") or names[-1]
            same(got, [base + name for name in expected], f"pages of {size}")


@check
def list_encoding_url(w):
    w.put("enc/a b+c%é", b"x")
    status, _, body = w.raw("GET", None, query=f"encoding-type=url&list-type=2&prefix={urllib.parse.quote(w.key('enc/'), safe='')}")
    same(status, 200)
    assert b"enc/a%20b%2Bc%25%C3%A9" in body and b"<EncodingType>url</EncodingType>" in body, body


@check
def list_many(w):
    names = [f"many/{n:05}" for n in range(1203)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: w.put(name, b"x"), names))
    page = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=w.key("many/"))
    same((page["KeyCount"], page["IsTruncated"], page["MaxKeys"]), (1000, True, 1000))
    page = w.s3.list_objects_v2(Bucket=w.bucket, Prefix=w.key("many/"), MaxKeys=5000)
    same(page["KeyCount"], 1000)
    keys = [w.key(name) for name in names]
    listed = [
        entry["Key"]
        for page in w.s3.get_paginator("list_objects_v2").paginate(Bucket=w.bucket, Prefix=w.key("many/"))
        for entry in page["Contents"]
    ]
    same(listed, keys)
    refused(
        "MalformedXML",
        lambda: w.s3.delete_objects(Bucket=w.bucket, Delete={"Objects": [{"Key": key} for key in keys[:1001]]}),
        400,
    )
    answer = w.s3.delete_objects(Bucket=w.bucket, Delete={"Objects": [{"Key": key} for key in keys[:1000]]})
    same(sorted(one["Key"] for one in answer["Deleted"]), keys[:1000])
    rest = {"Objects": [{"Key": key} for key in keys[1000:] + [w.key("many/none")]], "Quiet": True}
    answer = w.s3.delete_objects(Bucket=w.bucket, Delete=rest)
    assert not answer.get("Deleted") and not answer.get("Errors"), answer
    same(w.s3.list_objects_v2(Bucket=w.bucket, Prefix=w.key("many/"))["KeyCount"], 0)


@check
def delete_objects_reports_each(w):
    w.put("batch/a")
    objects = [{"Key": w.key("batch/a")}, {"Key": w.key("batch/b")}, {"Key": w.key("batch/c"), "VersionId": "v7"}]
    answer = w.s3.delete_objects(Bucket=w.bucket, Delete={"Objects": objects})
    same(sorted(one["Key"] for one in answer["Deleted"]), [w.key("batch/a"), w.key("batch/b")])
    same([(one["Key"], one["Code"]) for one in answer["Errors"]], [(w.key("batch/c"), "NoSuchVersion")])


# --- copies


@check
def copies(w):
    body = payload(5 * MIB + 3, 6)
    etag = w.put("from é+ x", body, ContentType="text/a", Metadata={"k": "v"})["ETag"]
    source = {"Bucket": w.bucket, "Key": w.key("from é+ x")}

    def copy(name, **more):
        return w.s3.copy_object(Bucket=w.bucket, Key=w.key(name), CopySource=source, **more)

    answer = copy("to")["CopyObjectResult"]
    same(answer["ETag"], etag)
    got, head = w.get("to")
    assert got == body
    same((head["ContentType"], head["Metadata"]), ("text/a", {"k": "v"}))
    copy("to", MetadataDirective="REPLACE", ContentType="text/b", Metadata={"n": "m"})
    head = w.head("to")
    same((head["ContentType"], head["Metadata"]), ("text/b", {"n": "m"}))
    refused("InvalidRequest", lambda: copy("from é+ x"), 400)
    copy("from é+ x", MetadataDirective="REPLACE", Metadata={"self": "1"})
    same(w.head("from é+ x")["Metadata"], {"self": "1"})
    assert w.get("from é+ x")[0] == body
    refused("PreconditionFailed", lambda: copy("to", CopySourceIfMatch='"other"'), 412)
    refused("PreconditionFailed", lambda: copy("to", CopySourceIfNoneMatch=etag), 412)
    copy("to", CopySourceIfMatch=etag)
    source["Key"] = w.key("missing")
    refused("NoSuchKey", lambda: copy("to"), 404)
    w.put("empty", b"")
    source["Key"] = w.key("empty")
    copy("to")
    same(w.get("to")[0], b"")


# --- multipart


class Upload:
    def __init__(self, w, name, **more):
        self.w, self.name, self.parts = w, name, []
        self.at = {"Bucket": w.bucket, "Key": w.key(name)}
        self.created = w.s3.create_multipart_upload(**self.at, **more)
        self.at["UploadId"] = self.created["UploadId"]

    def part(self, number, body, **more):
        answer = self.w.s3.upload_part(**self.at, PartNumber=number, Body=body, **more)
        part = {name: value for name, value in answer.items() if name == "ETag" or name.startswith("Checksum")}
        self.parts = [one for one in self.parts if one["PartNumber"] != number]
        self.parts.append({"PartNumber": number, **part})
        self.parts.sort(key=lambda one: one["PartNumber"])
        return answer

    def complete(self, parts=None, **more):
        chosen = self.parts if parts is None else parts
        return self.w.s3.complete_multipart_upload(**self.at, MultipartUpload={"Parts": chosen}, **more)

    def abort(self):
        return self.w.s3.abort_multipart_upload(**self.at)


def multi_etag(bodies):
    return '"%s-%d"' % (hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest(), len(bodies))


@check
def multipart(w):
    bodies = [payload(5 * MIB, 1), payload(6 * MIB + 1, 2), payload(12345, 3)]
    upload = Upload(w, "multi", ContentType="text/m", Metadata={"k": "v"})
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: upload.part(n + 1, bodies[n]), range(3)))
    refused("NoSuchKey", lambda: w.get("multi"), 404)
    answer = upload.complete()
    same(answer["ETag"], multi_etag(bodies))
    got, head = w.get("multi")
    whole = b"".join(bodies)
    assert got == whole
    same((head["ETag"], head["ContentType"], head["Metadata"]), (multi_etag(bodies), "text/m", {"k": "v"}))
    cut = 5 * MIB
    for first, last in [(cut - 3, cut + 3), (0, len(whole) - 1), (cut - 1, cut + 6 * MIB + 5)]:
        assert w.get("multi", Range=f"bytes={first}-{last}")[0] == whole[first : last + 1]
    same(w.get("multi", Range="bytes=-100")[0], whole[-100:])
    same(upload.complete()["ETag"], multi_etag(bodies), "the same Complete again")


@check
def multipart_part_numbers_on_get(w):
    bodies = [payload(5 * MIB, 1), payload(5 * MIB + 9, 2), payload(77, 3)]
    upload = Upload(w, "multi-get")
    for number, body in zip([2, 5, 9], bodies):
        upload.part(number, body)
    upload.complete()
    for number, body in enumerate(bodies, 1):
        got, answer = w.get("multi-get", PartNumber=number)
        assert got == body, f"part {number}"
        same((answer["PartsCount"], answer["ResponseMetadata"]["HTTPStatusCode"]), (3, 206))
    refused("InvalidRange", lambda: w.get("multi-get", PartNumber=4), 416)
    w.put("single", b"hello")
    same(w.get("single", PartNumber=1)[0], b"hello")


@check
def multipart_replaced_and_left_out_parts(w):
    upload = Upload(w, "replace")
    upload.part(1, payload(5 * MIB, 1))
    upload.part(1, payload(5 * MIB, 2))
    upload.part(2, payload(5 * MIB, 3))
    upload.part(3, b"tail")
    upload.complete([upload.parts[0], upload.parts[2]])
    assert w.get("replace")[0] == payload(5 * MIB, 2) + b"tail"


@check
def multipart_errors(w):
    upload = Upload(w, "errors")
    upload.part(1, payload(5 * MIB, 1))
    upload.part(2, b"small")
    upload.part(3, b"tail")
    one, two, three = upload.parts
    refused("EntityTooSmall", lambda: upload.complete(), 400)
    refused("InvalidPartOrder", lambda: upload.complete([three, one]), 400)
    refused("InvalidPart", lambda: upload.complete([{"PartNumber": 1, "ETag": '"00000000000000000000000000000000"'}]), 400)
    refused("InvalidPart", lambda: upload.complete([one, {**three, "PartNumber": 7}]), 400)
    refused("MalformedXML", lambda: upload.complete([]), 400)
    refused("InvalidArgument", lambda: upload.part(0, b"x"), 400)
    refused("InvalidArgument", lambda: upload.part(10001, b"x"), 400)
    refused("BadDigest", lambda: upload.part(4, b"x", ContentMD5=b64(hashlib.md5(b"y").digest())), 400)
    none = {"Bucket": w.bucket, "Key": w.key("errors"), "UploadId": "0" * 16}
    refused("NoSuchUpload", lambda: w.s3.upload_part(**none, PartNumber=1, Body=b"x"), 404)
    refused("NoSuchUpload", lambda: w.s3.list_parts(**none), 404)
    refused("NoSuchUpload", lambda: w.s3.abort_multipart_upload(**none), 404)
    refused("NoSuchUpload", lambda: w.s3.abort_multipart_upload(**{**none, "UploadId": "nonsense"}), 404)
    refused("NoSuchUpload", lambda: w.s3.complete_multipart_upload(**none, MultipartUpload={"Parts": [one]}), 404)
    refused("NoSuchUpload", lambda: w.s3.list_parts(**{**upload.at, "Key": w.key("another")}), 404)
    upload.complete([one, three])
    assert w.get("errors")[0] == payload(5 * MIB, 1) + b"tail"


@check
def multipart_abort(w):
    upload = Upload(w, "abort")
    upload.part(1, payload(5 * MIB, 1))
    upload.abort()
    refused("NoSuchUpload", lambda: upload.part(2, b"x"), 404)
    refused("NoSuchUpload", lambda: upload.complete(), 404)
    refused("NoSuchUpload", lambda: upload.abort(), 404)
    refused("NoSuchKey", lambda: w.get("abort"), 404)


@check
def multipart_listings(w):
    uploads = [Upload(w, f"lists/{name}") for name in ["a/1", "a/2", "b", "b", "c+ é/1"]]
    try:
        for number in [1, 3, 7, 10000]:
            uploads[0].part(number, b"%d" % number)
        parts = w.s3.list_parts(**uploads[0].at)
        same([(one["PartNumber"], one["Size"]) for one in parts["Parts"]], [(1, 1), (3, 1), (7, 1), (10000, 5)])
        same([one["ETag"] for one in parts["Parts"]], [one["ETag"] for one in uploads[0].parts])
        page = w.s3.list_parts(**uploads[0].at, MaxParts=2)
        same(([one["PartNumber"] for one in page["Parts"]], page["IsTruncated"]), ([1, 3], True))
        page = w.s3.list_parts(**uploads[0].at, MaxParts=2, PartNumberMarker=page["NextPartNumberMarker"])
        same(([one["PartNumber"] for one in page["Parts"]], page["IsTruncated"]), ([7, 10000], False))
        base = w.key("lists/")
        expected = sorted((upload.at["Key"], upload.at["UploadId"]) for upload in uploads)
        for size in [1, 2, 1000]:
            got = []
            pages = w.s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=w.bucket, Prefix=base, PaginationConfig={"PageSize": size}
            )
            for page in pages:
                got += [(one["Key"], one["UploadId"]) for one in page.get("Uploads", [])]
            same(got, expected, f"pages of {size}")
        rolled = w.s3.list_multipart_uploads(Bucket=w.bucket, Prefix=base, Delimiter="/")
        same([one["Prefix"] for one in rolled["CommonPrefixes"]], [base + "a/", base + "c+ é/"])
        same([one["Key"] for one in rolled["Uploads"]], [base + "b", base + "b"])
    finally:
        for upload in uploads:
            upload.abort()
    assert not w.s3.list_multipart_uploads(Bucket=w.bucket, Prefix=w.key("lists/")).get("Uploads")


@check
def multipart_checksums(w):
    bodies = [payload(5 * MIB, 1), payload(5 * MIB, 2), payload(99, 3)]
    whole = b"".join(bodies)

    def composite(digest):
        return b64(digest(b"".join(digest(body) for body in bodies))) + "-3"

    def crc(body):
        return zlib.crc32(body).to_bytes(4, "big")

    for algorithm, kind, field, value in [
        ("CRC32", "COMPOSITE", "ChecksumCRC32", composite(crc)),
        ("CRC32", "FULL_OBJECT", "ChecksumCRC32", crc32(whole)),
        ("SHA256", "COMPOSITE", "ChecksumSHA256", composite(lambda body: hashlib.sha256(body).digest())),
        ("SHA1", "COMPOSITE", "ChecksumSHA1", composite(lambda body: hashlib.sha1(body).digest())),
    ]:
        upload = Upload(w, "sums-multi", ChecksumAlgorithm=algorithm, ChecksumType=kind)
        same((upload.created["ChecksumAlgorithm"], upload.created["ChecksumType"]), (algorithm, kind))
        for number, body in enumerate(bodies, 1):
            upload.part(number, body, ChecksumAlgorithm=algorithm)
        listed = w.s3.list_parts(**upload.at)
        same([one[field] for one in listed["Parts"]], [one[field] for one in upload.parts])
        wrong = [{**upload.parts[0], field: upload.parts[1][field]}, *upload.parts[1:]]
        refused("InvalidPart", lambda: upload.complete(wrong), 400)
        refused("InvalidRequest", lambda: upload.complete(MpuObjectSize=len(whole) + 1), 400)
        if kind == "FULL_OBJECT":
            refused("BadDigest", lambda: upload.complete(**{field: crc32(b"x")}, ChecksumType=kind), 400)
        answer = upload.complete(MpuObjectSize=len(whole), ChecksumType=kind)
        same((answer[field], answer["ChecksumType"]), (value, kind), f"{algorithm} {kind}")
        head = w.head("sums-multi", ChecksumMode="ENABLED")
        same((head[field], head["ChecksumType"]), (value, kind))
        assert w.get("sums-multi", ChecksumMode="ENABLED")[0] == whole


@check
def multipart_copies_of_parts(w):
    body = payload(12 * MIB, 11)
    w.put("source", body)
    source = {"Bucket": w.bucket, "Key": w.key("source")}
    upload = Upload(w, "copied")
    for number, bounds in [(1, (0, 6 * MIB - 1)), (2, (6 * MIB, 12 * MIB - 1)), (3, (5, 9))]:
        answer = w.s3.upload_part_copy(
            **upload.at, PartNumber=number, CopySource=source, CopySourceRange="bytes=%d-%d" % bounds
        )
        upload.parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    refused(
        "InvalidRange",
        lambda: w.s3.upload_part_copy(
            **upload.at, PartNumber=4, CopySource=source, CopySourceRange=f"bytes={20 * MIB}-{21 * MIB}"
        ),
        416,
    )
    upload.complete()
    assert w.get("copied")[0] == body + body[5:10]


@check
def managed_transfers(w):
    body = payload(37 * MIB + 5, 12)
    w.s3.upload_fileobj(io.BytesIO(body), w.bucket, w.key("managed"))
    out = io.BytesIO()
    w.s3.download_fileobj(w.bucket, w.key("managed"), out)
    assert out.getvalue() == body
    w.s3.copy({"Bucket": w.bucket, "Key": w.key("managed")}, w.bucket, w.key("managed-copy"))
    assert w.get("managed-copy")[0] == body


# --- identities


@check
def identities(w):
    w.put("secret", b"hello")
    at = {"Bucket": w.bucket, "Key": w.key("secret")}
    refused("InvalidAccessKeyId", lambda: w.client(access="NOBODYATALL").get_object(**at), 403)
    refused("SignatureDoesNotMatch", lambda: w.client(secret="wrong").get_object(**at), 403)
    status, _, body = w.plain("GET", f"/{w.bucket}/{urllib.parse.quote(w.key('secret'))}", {})
    same((status, b"AccessDenied" in body), (403, True))
    status, _, body = w.plain(
        "GET",
        f"/{w.bucket}/{urllib.parse.quote(w.key('secret'))}",
        {"Authorization": f"AWS {w.args.access_key}:signature", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"},
    )
    same(status, 400, body)


@check
def presigned_urls(w):
    at = {"Bucket": w.bucket, "Key": w.key("pre signed+é")}
    url = w.client(signature_version="s3v4").generate_presigned_url("put_object", Params=at, ExpiresIn=60)
    target = url.removeprefix(w.args.endpoint.rstrip("/"))
    same(w.plain("PUT", target, {}, b"hello presigned")[0], 200)
    url = w.client(signature_version="s3v4").generate_presigned_url("get_object", Params=at, ExpiresIn=60)
    target = url.removeprefix(w.args.endpoint.rstrip("/"))
    same(w.plain("GET", target, {})[2], b"hello presigned")
    same(w.plain("GET", target.replace("signed%2B", "signed%2C"), {})[0], 403)
    url = w.client(signature_version="s3v4").generate_presigned_url("get_object", Params=at, ExpiresIn=1)
    target = url.removeprefix(w.args.endpoint.rstrip("/"))
    time.sleep(2.5)
    same(w.plain("GET", target, {})[0], 403)


@check
def reads_follow_writes(w):
    for n in range(30):
        body = b"%d" % n
        w.put("follow", body)
        same(w.get("follow")[0], body)
        keys = [entry["Key"] for entry in w.s3.list_objects_v2(Bucket=w.bucket, Prefix=w.key("follow"))["Contents"]]
        same(keys, [w.key("follow")])
        if n % 3 == 2:
            w.s3.delete_object(Bucket=w.bucket, Key=w.key("follow"))
            same(w.s3.list_objects_v2(Bucket=w.bucket, Prefix=w.key("follow"))["KeyCount"], 0)


def clean(w):
    for page in w.s3.get_paginator("list_multipart_uploads").paginate(Bucket=w.bucket, Prefix=w.prefix):
        for one in page.get("Uploads", []):
            w.s3.abort_multipart_upload(Bucket=w.bucket, Key=one["Key"], UploadId=one["UploadId"])
    for page in w.s3.get_paginator("list_objects_v2").paginate(Bucket=w.bucket, Prefix=w.prefix):
        objects = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if objects:
            answer = w.s3.delete_objects(Bucket=w.bucket, Delete={"Objects": objects, "Quiet": True})
            assert not answer.get("Errors"), answer["Errors"][:3]


def bucket_is_empty_at_the_end(w):
    w.s3.delete_bucket(Bucket=w.bucket)


def main():
    env = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default=env("AWS_ENDPOINT_URL"))
    parser.add_argument("--access-key", default=env("AWS_ACCESS_KEY_ID"))
    parser.add_argument("--secret-key", default=env("AWS_SECRET_ACCESS_KEY"))
    parser.add_argument("--region", default=env("AWS_REGION") or "us-east-1")
    parser.add_argument("--bucket", default=env("MESH_BUCKET"))
    parser.add_argument("--only", default="", help="run only checks with this in their names")
    parser.add_argument("--trace", action="store_true", help="show where a check failed")
    args = parser.parse_args()
    if not (args.endpoint and args.access_key and args.secret_key):
        parser.error("an endpoint and keys are needed: options, or AWS_ENDPOINT_URL and AWS_*_KEY*")
    world = World(args)
    made = False
    try:
        world.s3.create_bucket(Bucket=world.bucket)
        made = True
    except ClientError as error:
        if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
            raise
    passed = failed = 0

    def run(function):
        nonlocal passed, failed
        began = time.monotonic()
        try:
            function(world)
        except Exception as error:  # whatever it is, it is this check's
            failed += 1
            print(f"FAIL {function.__name__}: {type(error).__name__}: {error}", flush=True)
            if args.trace:
                traceback.print_exc()
        else:
            passed += 1
            print(f"ok   {function.__name__} ({time.monotonic() - began:.1f} s)", flush=True)

    for function in CHECKS:
        if args.only in function.__name__:
            run(function)
    run(clean)
    if made and not failed:
        run(bucket_is_empty_at_the_end)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
