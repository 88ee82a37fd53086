#!/usr/bin/env python3
"""Launch and end on a machine with systemd: pinfold beside what one would take instead, in one run.

    systemd.py PINFOLD [ROUNDS]

As root it measures the system manager, else the user's. Every round does each thing once, in another order, so that what
the machine does meanwhile falls on all of them. Printed are medians, 90th percentiles, and the ratio of medians to
systemd's own tool. Processes are started 0.3 s apart: a migration between cgroups is cheap right after another one.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

PAUSE = 0.3
MANAGER = "--system" if os.geteuid() == 0 else "--user"
# A shell and nine children, as an npx tree has some ten processes.
TREE = "i=0; while [ $i -lt 9 ]; do sleep 1000 & i=$((i+1)); done; echo up; wait"


class Bench:
    def __init__(self, pinfold, directory):
        self.pinfold, self.directory = pinfold, directory
        self.socket = os.path.join(directory, "pinfold.sock")
        self.environment = dict(os.environ, PINFOLD_SOCKET=self.socket)
        self.number = 0
        log = open(os.path.join(directory, "serve.log"), "w")
        self.daemon = subprocess.Popen([pinfold, "serve", "--backend", "systemd", "--socket", self.socket], stderr=log)
        deadline = time.monotonic() + 30
        while not os.path.exists(self.socket):
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                sys.exit("the daemon did not start: " + open(log.name).read())
            time.sleep(0.05)

    def name(self):
        self.number += 1
        return f"bench-{os.getpid()}-{self.number}"

    def timed(self, *command):
        start = time.monotonic()
        subprocess.run(command, env=self.environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return time.monotonic() - start

    def up(self, *command):
        """Starts a server that stays; returns when it says that it runs."""
        server = subprocess.Popen(command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
        if server.stdout.readline() != b"up\n":
            sys.exit(f"did not come up: {command}")
        return server

    def plain(self):
        return self.timed("true")

    def scope(self):
        return self.timed("systemd-run", MANAGER, "--quiet", "--collect", "--scope", "true")

    def first(self):
        return self.timed(self.pinfold, "run", "--session", self.name(), "--", "true")

    def second(self):
        session = self.name()
        server = self.up(self.pinfold, "run", "--session", session, "--", "sh", "-c", "echo up; exec cat")
        time.sleep(PAUSE)
        took = self.timed(self.pinfold, "run", "--session", session, "--", "true")
        server.stdin.close()
        server.wait()
        return took

    def end(self, *options):
        session = self.name()
        server = self.up(self.pinfold, "run", "--session", session, "--", "sh", "-c", TREE)
        time.sleep(PAUSE)
        took = self.timed(self.pinfold, "end", *options, session)
        server.wait()
        return took

    def end_at_once(self):
        return self.end("--now")

    def stop(self):
        unit = self.name() + ".scope"
        scope = ("systemd-run", MANAGER, "--quiet", "--collect", "--scope", "--unit", unit)
        server = self.up(*scope, "sh", "-c", TREE)
        time.sleep(PAUSE)
        took = self.timed("systemctl", MANAGER, "stop", unit)
        server.wait()
        return took

    def close(self):
        self.daemon.terminate()
        self.daemon.wait(30)


TABLES = [
    ("launch of `true`, until it has exited", "scope", [
        ("plain exec", "plain"),
        ("systemd-run --scope", "scope"),
        ("pinfold run, first of a session", "first"),
        ("pinfold run, second of a session", "second"),
    ]),
    ("end of ten processes, until none is left", "stop", [
        ("systemctl stop of a scope", "stop"),
        ("pinfold end", "end"),
        ("pinfold end --now", "end_at_once"),
    ]),
]


def main():
    pinfold, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    version = subprocess.run(["systemctl", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[1]
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(pinfold, directory)
        names = [method for _, _, rows in TABLES for _, method in rows]
        times = {name: [] for name in names}
        for each in range(rounds + 1):
            for name in random.sample(names, len(names)):
                took = getattr(bench, name)()
                # The first round finds everything cold.
                if each > 0:
                    times[name].append(took)
                time.sleep(PAUSE)
        bench.close()
    print(f"systemd {version}, {MANAGER.strip('-')} manager, Linux {os.uname().release}, {rounds} rounds")
    for title, base, rows in TABLES:
        print(f"\n| {title} | median ms | p90 ms | ratio |\n|---|---:|---:|---:|")
        for label, name in rows:
            median, p90 = statistics.median(times[name]), statistics.quantiles(times[name], n=10)[-1]
            ratio = median / statistics.median(times[base])
            print(f"| {label} | {median * 1e3:.1f} | {p90 * 1e3:.1f} | {ratio:.2f} |")


main()
