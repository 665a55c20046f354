"""A real SLURM on one machine, of two nodes that are processes of it, from Debian's packages.

    python -m tests.slurm.cluster start FOLDER   # prints what to export so that sbatch and others find it
    python -m tests.slurm.cluster stop FOLDER    # ends its jobs, then the daemons, by their pid files

Where slurmctld, slurmd and munged are not installed, apt-get downloads them and they are unpacked into
FOLDER: nothing is installed, and `srun`, with which Lightning behaves differently, is on nobody's PATH.
"""

import argparse
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

HERE = Path(__file__).parent
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")
_POLL_S = 0.5
_SYSTEM = "/usr/bin:/usr/sbin:/bin:/sbin"


class Cluster:
    """The SLURM whose files all lie in `folder`.

    Attributes:
        environment: of processes that are to find it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), **self._paths()}

    def start(self) -> None:
        """Bring the packages, write the configuration and start the daemons; return when both nodes are up.

        Raises:
            RuntimeError: a daemon or a node does not come up; the message ends in its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not all(map(self._program, ("slurmctld", "slurmd", "munged", "srun"))):
            self._unpack()
            self.environment |= self._paths()
        self._write_configuration()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = {name: self.folder / f"munge.{name}" for name in ("key", "socket", "pid", "log", "seed")}
        files = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in munge.items()]
        self._daemon("munged", "--force", *files)
        self._daemon("slurmctld", "-c")
        for node in NODES:
            self._start_node(node)
        self.until(
            lambda: self.call("sinfo", "--noheader", "--format=%T %D").split() == ["idle", str(len(NODES))],
            seconds=60,
            what="idle nodes",
        )

    def stop(self) -> None:
        """End all jobs and the daemons; quiet if there are none."""
        if (self.folder / "slurmctld.pid").exists():
            self.call("scancel", "--user", getpass.getuser())
            self.until(lambda: not self.call("squeue", "--noheader"), seconds=60, what="an empty queue")
        for path in sorted(self.folder.glob("*.pid"), key=lambda path: path.stem == "munge"):
            number = int(path.read_text())
            try:
                os.kill(number, signal.SIGTERM)
            except ProcessLookupError:
                continue
            self.until(
                lambda number=number: not _is_alive(number), seconds=30, what=f"the end of {path.stem}"
            )

    def take_away(self, node: str) -> None:
        """Kill a node's daemon and all that it runs, as when a machine goes down, and declare it down.

        SLURM would notice by itself after SlurmdTimeout, five minutes, and do the same.
        """
        tasks = list(_tasks_of(node))
        steps = [each for task in tasks for each in task.parents() if each.name() == "slurmstepd"]
        daemon = self.folder / f"slurmd-{node}.pid"
        # What could tell of it first: SLURM hears nothing of how the tasks end.
        for process in dict.fromkeys([psutil.Process(int(daemon.read_text())), *steps, *tasks]):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.unlink()
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=gone")

    def bring_back(self, node: str) -> None:
        """Start the daemon of a node that was taken away, and return when SLURM uses the node again."""
        self._start_node(node)
        self.until(
            lambda: self.call("sinfo", "--noheader", f"--nodes={node}", "--format=%T").strip() == "idle",
            seconds=60,
            what=f"node {node}",
        )

    def call(self, *words: str, folder: Path | None = None, **environment: str) -> str:
        """What a command says that must succeed, in the environment of the cluster."""
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job, such as JobState and Restarts."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "--oneliner", "show", "job", job)))

    def wait(self, job: str, *, seconds: float = 300) -> dict[str, str]:
        """The facts of a job that has ended. Where it went back into the queue, its turn comes at once.

        SLURM lets a job that was put back wait for two minutes.
        """

        def ended() -> bool:
            facts = self.facts(job)
            if facts["JobState"] == "PENDING" and facts["Restarts"] != "0" and facts["Reason"] == "BeginTime":
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now")
            return facts["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")

        self.until(ended, seconds=seconds, what=f"the end of job {job}")
        return self.facts(job)

    def until(self, true: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Wait until something is true; RuntimeError with the end of SLURM's logs if that takes too long."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                logs = sorted(self.folder.glob("*.log"))
                tails = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in logs]
                raise RuntimeError("\n".join([f"waited {seconds:.0f} s for {what}", *tails]))
            time.sleep(_POLL_S)

    def _start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node, "-d", str(self._program("slurmstepd")))

    def _paths(self) -> dict[str, str]:
        root = self.folder / "packages"
        unpacked = [str(root / each) for each in ("usr/bin", "usr/sbin", "bin", "sbin")]
        libraries = sorted(str(path) for path in root.glob("usr/lib/*-linux-gnu"))
        return {
            "PATH": ":".join([*unpacked, os.environ["PATH"], _SYSTEM]),
            "LD_LIBRARY_PATH": ":".join([*libraries, *(f"{path}/slurm-wlm" for path in libraries)]),
        }

    def _program(self, name: str) -> str | None:
        return shutil.which(name, path=self.environment["PATH"])

    def _daemon(self, name: str, *words: str) -> None:
        program = self._program(name)
        assert program is not None, name
        self.call(program, *words)

    def _unpack(self) -> None:
        target, archives = self.folder / "packages", self.folder / "archives"
        say(f"SLURM is not installed: apt-get downloads {', '.join(PACKAGES)}, to be unpacked into {target}")
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1"]
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--download-only", *options]
        try:
            self.call(*words, *PACKAGES)
        except RuntimeError:
            self.call("apt-get", "update", "-qq")  # a new machine has no lists yet
            self.call(*words, *PACKAGES)
        for archive in sorted(archives.glob("*.deb")):
            self.call("dpkg", "-x", str(archive), str(target))
        # As installing would do: the daemons ask for their own names what they are.
        for program in target.glob("usr/sbin/*-wlm"):
            link = program.with_name(program.name.removesuffix("-wlm"))
            link.unlink(missing_ok=True)
            link.symlink_to(program.name)

    def _write_configuration(self) -> None:
        controller = self._program("slurmctld")
        assert controller is not None
        root = Path(controller).resolve().parents[2]
        plugins = next(iter(sorted(root.glob("usr/lib/*-linux-gnu/slurm-wlm"))))
        values = {
            "DIR": str(self.folder),
            "HOST": socket.gethostname().partition(".")[0],
            "USER": getpass.getuser(),
            "PLUGINS": str(plugins),
            **{f"PORT{number}": str(port) for number, port in enumerate(_free_ports(3))},
        }
        for folder in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / folder).mkdir(exist_ok=True)
        for number in range(2):
            (self.folder / f"gpu{number}").unlink(missing_ok=True)
            (self.folder / f"gpu{number}").symlink_to("/dev/null")
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            text = (HERE / name).read_text()
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            (self.folder / name).write_text(text)


def say(line: str) -> None:
    """Past pytest's capture, too: that something is downloaded is said in every case."""
    print(line, file=sys.__stderr__, flush=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _tasks_of(node: str) -> Iterator[psutil.Process]:
    """Processes that a node of this user's SLURM runs."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == node:
                yield process


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=("start", "stop"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    cluster = Cluster(given.folder)
    if given.do == "stop":
        cluster.stop()
        return
    cluster.start()
    for name, value in cluster.environment.items():
        print(f"export {name}={value}")


if __name__ == "__main__":
    main()
