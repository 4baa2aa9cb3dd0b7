"""What a converged site.yml costs per host as the fleet grows: CPU of controller and hosts, memory, tasks.

    ansible-playbook molecule/shared/create.yml -e fleet=bench
    ansible-playbook -i .torchfleet/bench/inventory site.yml
    python tests/bench/bench_scale.py 10 25 50 100

The converged host of the fleet `bench` becomes an image, and containers of it the hosts: sshd without
systemd, which takes no inotify instance, an address each, and the host key of the image. The record of a
whole run that changed nothing is made on the first of them and put on the others, whose files are the same
(they share the image's layers, with their inodes and times); each of them then compares its own files. On
the smallest fleet two more are measured: a run in which every role looks (converged_max_age: 0), and the
same state as shell tasks (course.yml).

CPU of the controller is that of ansible-playbook and all its children, the ssh processes that outlive it
among them; of the hosts what the Docker engine counts, ssh logins included. Memory is proportional (PSS),
so that pages that the workers share are counted once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "torchfleet/bench"
NETWORK = "torchfleet-bench"
SUBNET = "10.213.80."
RECORD = "/var/lib/torchfleet/converged.json"
AIM_CONTROLLER, AIM_TARGET = 1.0, 1.2
Json = dict[str, Any]


@dataclass
class Run:
    """One playbook run on so many hosts; all numbers but these are sums."""

    name: str
    hosts: int
    tasks: int
    wall: float
    controller: float
    target: float
    parent_kb: int
    peak_kb: int


class Memory(threading.Thread):
    """The peaks of a process and of all its session, in kB, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.ended = pid, threading.Event()
        self.parent = self.peak = 0

    def run(self) -> None:
        while not self.ended.wait(0.5):
            sizes = {}
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    if os.getsid(int(path.name)) == self.pid:
                        found = (path / "smaps_rollup").read_text()
                        sizes[int(path.name)] = int(found.partition("\nPss:")[2].split()[0])
            self.parent = max(self.parent, sizes.get(self.pid, 0))
            self.peak = max(self.peak, sum(sizes.values()))


class Fleet:
    """Containers of one image that are hosts of one inventory."""

    def __init__(self, base: str, work: Path) -> None:
        self.client, self.work = docker.from_env(timeout=1800), work
        state = ROOT / ".torchfleet" / base
        try:
            hosts = yaml.safe_load((state / "inventory/hosts.yml").read_text(encoding="utf-8"))["all"][
                "hosts"
            ]
        except FileNotFoundError as error:
            raise SystemExit(
                f"found no {error.filename}; bring the fleet '{base}' up first, as above"
            ) from None
        (name, self.variables), *_ = hosts.items()
        self.container = self.client.containers.get(f"{base}-{name}")
        self.torch = json.loads(self.output(self.container, "cat /var/lib/torchfleet/verdict.json"))[
            "results"
        ][0]["torch"]
        self.key = " ".join(self.output(self.container, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
        self.record: bytes | None = None
        self.members: list[Any] = []

    @staticmethod
    def output(container: Any, command: str) -> str:
        status, text = container.exec_run(command)
        if status:
            raise SystemExit(f"{container.name}: {command} ended with {status}: {text.decode()}")
        return str(text.decode())

    def __enter__(self) -> Fleet:
        self.container.exec_run(f"rm -f {RECORD}")
        self.container.commit(IMAGE, "latest")
        pool = docker.types.IPAMPool(subnet=f"{SUBNET}0/24")
        labels = {"torchfleet": "bench"}
        self.network = self.client.networks.create(
            NETWORK, ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels=labels
        )
        for mirror in self.client.containers.list(filters={"name": "^torchfleet-mirror"}):
            found = next(iter(mirror.attrs["NetworkSettings"]["Networks"].values()))
            aliases = [name for name in found["Aliases"] or [] if "." in name]
            if set(self.container.attrs["NetworkSettings"]["Networks"]) & set(
                mirror.attrs["NetworkSettings"]["Networks"]
            ):
                self.network.connect(mirror, aliases=aliases)
                self.mirror = mirror
        return self

    def __exit__(self, *_: object) -> None:
        for container in self.members:
            container.remove(force=True)
        with contextlib.suppress(AttributeError, docker.errors.APIError):
            self.network.disconnect(self.mirror)
        self.network.remove()
        self.client.images.remove(f"{IMAGE}:latest", force=True)

    def grow(self, number: int) -> None:
        """Start hosts until there are so many, and write their inventory."""
        while len(self.members) < number:
            container = self.client.containers.create(
                IMAGE,
                ["/bin/sh", "-c", "mkdir -p /run/sshd && exec /usr/sbin/sshd -D"],
                name=f"bench-scale{len(self.members):03}",
                labels={"torchfleet": "bench"},
                stop_signal="SIGKILL",
                tmpfs={"/run": "", "/sys/bus/pci/devices": ""},
            )
            self.members.append(container)
            self.client.networks.get("bridge").disconnect(container)
            self.network.connect(container, ipv4_address=self.address(len(self.members) - 1))
            container.start()
            if self.record:
                container.put_archive(str(Path(RECORD).parent), self.record)
        hosts = {f"host{index:03}": {"ansible_host": self.address(index)} for index in range(number)}
        gone = ("ansible_host", "ansible_control_path", "ansible_ssh_common_args")
        common = {key: value for key, value in self.variables.items() if key not in gone}
        known = self.work / "known_hosts"
        common["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes"
        known.write_text("".join(f"{self.address(index)} {self.key}\n" for index in range(number)))
        inventory = self.work / "inventory"
        inventory.mkdir(exist_ok=True)
        (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
        if not (inventory / "group_vars").exists():
            (inventory / "group_vars").symlink_to(ROOT / "group_vars")

    @staticmethod
    def address(index: int) -> str:
        return f"{SUBNET}{index + 10}"

    def cpu(self, number: int) -> float:
        usage = [
            self.client.api.stats(container.id, stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]
            for container in self.members[:number]
        ]
        return float(sum(row["total_usage"] for row in usage)) / 1e9

    def keep_record(self) -> None:
        """Take the record from the first host, for those that are still to come."""
        text = self.output(self.members[0], f"cat {RECORD}").encode()
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo(Path(RECORD).name)
            entry.size, entry.mode = len(text), 0o600
            archive.addfile(entry, io.BytesIO(text))
        self.record = file.getvalue()

    def play(self, name: str, number: int, playbook: str, variables: Json) -> Run:
        """Run one playbook on the first hosts and measure it; stops with its output when it fails."""
        self.grow(number)
        sockets = self.work / f"cp{time.monotonic_ns()}"
        sockets.mkdir(mode=0o700)
        environment = {
            **os.environ,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets),
        }
        command = [sys.executable, "-m", "ansible", "playbook", "-i", str(self.work / "inventory"), playbook]
        target, own = self.cpu(number), resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        with (self.work / "stdout").open("w+") as out, (self.work / "stderr").open("w+") as err:
            process = subprocess.Popen(
                [*command, "-e", json.dumps(variables)],
                cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
            memory = Memory(process.pid)
            memory.start()
            status = process.wait()
            wall = time.perf_counter() - start
            memory.ended.set()
            memory.join()
            out.seek(0)
            err.seek(0)
            said, errors = out.read(), err.read()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        controller = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime + end_of(sockets)
        told = json.loads(said[said.index("{") :]) if "{" in said else {}
        looked = [
            f"{host}: {result['reason']}"
            for play in told.get("plays", [])
            for task in play["tasks"]
            for host, result in task["hosts"].items()
            if result.get("untouched") is False
        ]
        if name == "untouched" and looked:
            raise SystemExit("\n".join(["these hosts were not passed over:", *looked]))
        if status:
            raise SystemExit(f"{playbook} failed with status {status}:\n{said[-4000:]}{errors[-2000:]}")
        stats = told["stats"]
        return Run(
            name,
            number,
            sum(row["ok"] + row["skipped"] for row in stats.values()),
            wall,
            controller,
            self.cpu(number) - target,
            memory.parent,
            memory.peak,
        )


def end_of(sockets: Path) -> float:
    """CPU seconds of the ssh processes that keep the connections open; ends them."""
    used = 0.0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(sockets).encode() in (path / "cmdline").read_bytes():
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                os.kill(int(path.name), signal.SIGTERM)
    return used


def show(run: Run) -> None:
    per_host = [value / run.hosts for value in (run.tasks, run.wall, run.controller, run.target)]
    print(
        f"{run.name:24}{run.hosts:6}" + "".join(f"{value:12.2f}" for value in per_host)
        + f"{run.parent_kb / 1024:12.0f}{run.peak_kb / 1024:12.0f}{os.getloadavg()[0]:8.1f}",
        flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[10, 25, 50, 100], help="hosts (10 25 50 100)")
    parser.add_argument("--fleet", default="bench", help="whose first host is copied (default: bench)")
    args = parser.parse_args()
    sizes = sorted(args.sizes)
    with tempfile.TemporaryDirectory() as work, Fleet(args.fleet, Path(work)) as fleet:
        # The first may have to change what systemd had done; the second leaves the record.
        for _ in range(2):
            fleet.play("", 1, "site.yml", {"converged_max_age": 3600, "report_dir": ""})
        fleet.keep_record()
        titles = ("tasks", "seconds", "controller", "host", "MB parent", "MB all")
        print(f"{'per host (CPU seconds)':24} hosts{''.join(f'{title:>12}' for title in titles)}    load")
        ours = []
        for size in sizes:
            ours.append(
                fleet.play("untouched", size, "site.yml", {"converged_max_age": 3600, "report_dir": ""})
            )
            show(ours[-1])
        every = fleet.play(
            "every role looks", sizes[0], "site.yml", {"converged_max_age": 0, "report_dir": ""}
        )
        show(every)
        torch = {f"host{index:03}": fleet.torch for index in range(sizes[0])}
        course = fleet.play(
            "course shell commands", sizes[0], "tests/bench/course.yml", {"bench_torch": torch}
        )
        show(course)
    first, last = ours[0], ours[-1]
    for name, key, aim in (("controller", "controller", AIM_CONTROLLER), ("host", "target", AIM_TARGET)):
        costs = [getattr(run, key) / run.hosts for run in ours]
        others = [getattr(run, key) / getattr(first, key) for run in (course, every)]
        print(
            f"CPU {name}: {costs[0]:.2f} s per host of {first.hosts}, {costs[-1]:.2f} s of {last.hosts} "
            f"(aim: {aim}, flat); course {others[0]:.1f}x, every role {others[1]:.1f}x as much"
        )
    if last.hosts > first.hosts:
        growth = (last.parent_kb - first.parent_kb) / (last.hosts - first.hosts)
        print(f"memory: the parent grows by {growth:.0f} kB for each further host")


if __name__ == "__main__":
    main()
