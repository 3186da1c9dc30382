#!/usr/bin/env python3
"""A real Prometheus watches a real mesh.

    prometheus.py --mesh target/debug/mesh [--prometheus /usr/bin/prometheus] [--promtool /usr/bin/promtool]

Starts `mesh dev` in a temporary folder, lets Prometheus scrape every node with the rules of examples/prometheus, and looks:

- `promtool check rules` and `promtool test rules` find nothing wrong with the rules,
- `promtool check metrics` finds nothing wrong with the text of any node,
- Prometheus says of every node that it is up, and knows every name that a rule uses,
- objects that were stored meanwhile (by the mesh's own client) show in what it has scraped,
- no rule fires on a mesh that is well.

Debian has both programs in the package `prometheus`; without them, or without `mesh`, it prints SKIPPED. Exit code 1 if
anything is not as it should be.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "examples/prometheus"
PATIENCE_S = 120


def fail(what):
    print(f"FAILED: {what}", file=sys.stderr)
    sys.exit(1)


def until(what, look):
    """Looks until it gives something; fails after a bounded time."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.25)
    fail(f"waited in vain for {what}")


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(arguments, **more):
    done = subprocess.run([str(one) for one in arguments], capture_output=True, text=True, **more)
    print(f"$ {' '.join(Path(str(one)).name for one in arguments)}")
    if done.returncode != 0:
        fail(f"{arguments[0]} says: {done.stdout}{done.stderr}")
    # What `check metrics` has against names it says, and ends well.
    if done.stderr.strip():
        fail(f"{arguments[0]} warns: {done.stderr}")
    return done.stdout


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def names_in_rules():
    text = (RULES / "alerts.yml").read_text()
    return sorted(set(re.findall(r"\bmesh_[a-z0-9_]+", "\n".join(line for line in text.splitlines() if "summary" not in line))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", default=ROOT / "target/debug/mesh", type=Path)
    parser.add_argument("--prometheus", default=shutil.which("prometheus"))
    parser.add_argument("--promtool", default=shutil.which("promtool"))
    options = parser.parse_args()
    for name in ("mesh", "prometheus", "promtool"):
        path = getattr(options, name)
        if path is None or not Path(path).exists():
            print(f"SKIPPED: no {name}")
            return
    run([options.promtool, "check", "rules", RULES / "alerts.yml"])
    run([options.promtool, "test", "rules", "alerts.test.yml"], cwd=RULES)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        mesh = subprocess.Popen(
            [options.mesh, "dev", "--s3-port", "0", "--drive-size", "2GiB", "--data", folder / "mesh"],
            stdout=subprocess.DEVNULL,
        )
        prometheus = None
        try:
            env_file = folder / "mesh/dev.env"
            until("the mesh", env_file.exists)
            told = dict(
                (name, value.strip("'"))
                for name, value in re.findall(r"^export (\w+)=(.*)$", env_file.read_text(), re.MULTILINE)
            )
            nodes = told["MESH_WATCH"].split(",")
            if len(nodes) != 3:
                fail(f"three nodes are watched, and not {nodes}")
            for node in nodes:
                run([options.promtool, "check", "metrics"], input=get(f"{node}/metrics"))
            port = free_port()
            targets = [node.removeprefix("http://") for node in nodes]
            config = (RULES / "prometheus.yml").read_text()
            config = re.sub(r"targets: \[.*\]", f"targets: {json.dumps(targets)}", config)
            config = config.replace("15s", "1s").replace("- alerts.yml", f"- {RULES / 'alerts.yml'}")
            (folder / "prometheus.yml").write_text(config)
            run([options.promtool, "check", "config", folder / "prometheus.yml"])
            prometheus = subprocess.Popen(
                [
                    options.prometheus,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=error",
                ]
            )
            api = f"http://127.0.0.1:{port}/api/v1"

            def asked(query):
                try:
                    answer = json.loads(get(f"{api}/query?query={urllib.parse.quote(query)}"))
                except OSError:
                    return []
                return answer["data"]["result"]

            until("three nodes that are up", lambda: len(asked('up{job="mesh"} == 1')) == 3)
            before = float(until("a number", lambda: asked('sum(mesh_drive_stored_shards_total)'))[0]["value"][1])
            environment = {**os.environ, **told}
            (folder / "object").write_bytes(b"x" * 100_000)
            for number in range(10):
                run([options.mesh, "put", folder / "object", f"object-{number}"], env=environment)
            until(
                "what was stored in what was scraped",
                lambda: float(asked("sum(mesh_drive_stored_shards_total)")[0]["value"][1]) >= before + 30,
            )
            for name in names_in_rules():
                # A family that has no series yet is told by its type alone.
                if not any(f"# TYPE {re.sub('_(bucket|sum|count)$', '', name)} " in get(f"{node}/metrics") for node in nodes):
                    fail(f"the rules use {name}, and no node tells it")
            firing = asked('ALERTS{alertstate="firing"}')
            if firing:
                fail(f"on a mesh that is well: {firing}")
            health = json.loads(get(f"{api}/rules"))["data"]["groups"]
            bad = [rule for group in health for rule in group["rules"] if rule.get("lastError")]
            if bad:
                fail(f"rules that cannot be worked out: {bad}")
        finally:
            if prometheus is not None:
                end(prometheus)
            end(mesh)
    print("a real Prometheus watches all nodes, and all rules work")


main()
