"""Clients that put, read back and compare all the time and retry nothing: for scripts that must not cost a request."""

import collections
import random
import threading
import time

from nodes import until

# Objects that a client reads again, beside those that it has just put.
OLDER = 64


class Load:
    """Clients that put, read back and compare, each through a node that takes requests."""

    def __init__(self, mesh, count):
        self.mesh, self.stop, self.lock = mesh, threading.Event(), threading.Lock()
        self.open, self.busy = set(mesh.up), collections.Counter()
        self.done, self.failed, self.wrong, self.slowest = 0, [], [], 0.0
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    @property
    def whole(self):
        """Whether no node is out."""
        return len(self.open) == len(self.mesh.up)

    def begin(self, dice):
        """A node that takes requests, with one more under way."""
        with self.lock:
            number = dice.choice(sorted(self.open))
            self.busy[number] += 1
            return number

    def ask(self, dice, what, call):
        number, began = self.begin(dice), time.monotonic()
        try:
            answer = call(self.mesh.clients[number])
            self.done += 1
            return answer
        except Exception as error:  # noqa: BLE001: any failure at the client counts
            self.failed.append(f"{time.strftime('%H:%M:%S')} {what} at node-{number}: {error}")
            return None
        finally:
            with self.lock:
                self.busy[number] -= 1
                self.slowest = max(self.slowest, time.monotonic() - began)

    def run(self, number):
        dice, turn, kept, bucket = random.Random(number), 0, {}, self.mesh.bucket()
        while not self.stop.is_set():
            turn += 1
            key = f"{self.mesh.prefix}/{number}/{turn}"
            body = dice.randbytes(dice.choice((100, 5_000, 300_000)))
            whole = self.whole
            put = self.ask(dice, f"PUT {key}", lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=body))
            if put is None:
                continue
            with self.mesh.lock:
                self.mesh.acknowledged[key] = body
            if whole and self.whole:
                kept[key] = body
            if len(kept) > OLDER:
                del kept[next(iter(kept))]
            older = [dice.choice(list(kept.items()))] if kept else []
            for name, wanted in [(key, body), *older]:
                got = self.ask(
                    dice, f"GET {name}", lambda s3: s3.get_object(Bucket=bucket, Key=name)["Body"].read()
                )
                if got is not None and got != wanted:
                    self.wrong.append(name)
            time.sleep(0.02)

    def slowest_since(self):
        """The longest that a request took, in seconds, of those that have ended since this was asked last."""
        with self.lock:
            slowest, self.slowest = self.slowest, 0.0
            return slowest

    def leave(self, number):
        """Nothing more is asked of a node, and what it has under way has ended."""
        with self.lock:
            self.open.discard(number)
        until(f"requests at node-{number} end", 60, lambda: "ended" if self.busy[number] == 0 else None)

    def enter(self, number):
        with self.lock:
            self.open.add(number)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(120)

    def conclude(self, fault, told=()):
        """Ends it, looks for every object that was acknowledged, and says what it came to. Whether all was well. `fault`:
        what ended a step before its end, or nothing; `told`: lines to say besides."""
        self.end()
        counts = self.mesh.check(dict(self.mesh.acknowledged), {})
        for line in told:
            print(f"  {line}")
        print(
            f"{self.done} requests, {len(self.failed)} failed, {len(self.wrong)} with wrong bytes; "
            f"of {sum(counts.values())} objects {counts['kept']} kept, {counts['lost']} lost, {counts['wrong']} wrong"
        )
        for line in self.failed[:20] + self.wrong[:20]:
            print(f"  {line}")
        if fault is not None:
            print(f"FAULT {fault}")
            for node in self.mesh.nodes:
                print(f"--- the end of {node.log_path}")
                print("".join(open(node.log_path, errors="replace").readlines()[-30:]))
        return not (self.failed or self.wrong or self.mesh.missing() or fault)
