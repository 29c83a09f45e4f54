"""Where it all happens: a private directory, with worker processes and kernels that end with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .containers import Containers
from .kernels import RawKernel
from .ssh import OpenSshTunnel, SshServer
from .worker import Worker

#: Short names, because the paths of Unix sockets are bounded.
_DIRECTORIES = {
    "TMPDIR": "tmp",
    "XDG_RUNTIME_DIR": "xdg",
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "run",
}


class Stage:
    """A context in which contestants run; nothing of it is left afterwards.

    Every file goes to one temporary directory: connection files, sockets, IPython's profile.
    """

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="kmb-", ignore_cleanup_errors=True)
        root = Path(self._directory.name)
        self.env = dict(os.environ)
        for name, folder in _DIRECTORIES.items():
            path = root / folder
            path.mkdir(mode=0o700)
            self.env[name] = str(path)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._directory.cleanup()

    @contextmanager
    def workers(self, names: Iterable[str]) -> Iterator[dict[str, Worker]]:
        """Give a fresh process for each contestant."""
        with ExitStack() as stack:
            yield {name: stack.enter_context(closing(Worker(name, self.env))) for name in names}

    @contextmanager
    def kernels(self, module: str, names: Iterable[str]) -> Iterator[dict[str, dict[str, Any]]]:
        """Give the connection info of a fresh kernel for each contestant."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(closing(RawKernel(module, self.env))).info
                for name in names
            }

    @contextmanager
    def connected(self, module: str, names: Iterable[str]) -> Iterator[dict[str, Worker]]:
        """Give fresh contestants, each with a client of a fresh kernel of its own."""
        names = list(names)
        with self.kernels(module, names) as infos, self.workers(names) as workers:
            for name, worker in workers.items():
                worker.call("connect", infos[name])
            yield workers

    @contextmanager
    def directly_and_through_nanny(
        self, contestant: str, module: str
    ) -> Iterator[tuple[Worker, Worker]]:
        """Give one contestant twice: with a kernel, and with one that a nanny keeps."""
        with (
            self.connected(module, [contestant]) as direct,
            closing(Worker(contestant, self.env)) as kept,
        ):
            kept.call("connect_through_nanny")
            yield direct[contestant], kept

    @contextmanager
    def with_journals(self, limit: int) -> Iterator[dict[str, Worker]]:
        """Give one contestant three times, each with a kernel of its own in a nanny's care.

        Args:
            limit: how many bytes a journal may have on disk.

        Yields:
            ``with`` reads the journal, ``unread`` does not although there is one, and ``without`` has
            none.
        """
        with ExitStack() as stack:
            workers = {}
            for name in ("with", "unread", "without"):
                worker = stack.enter_context(closing(Worker("ours, with journal", self.env)))
                kept = None if name == "without" else limit
                worker.call("connect_with_journal", kept, read=name == "with")
                workers[name] = worker
            yield workers

    @contextmanager
    def over_ssh(self) -> Iterator[tuple[SshServer, dict[str, Worker]]]:
        """Give one contestant twice, with one kernel on a host: by our way there, and by ``ssh -L``."""
        with (
            closing(SshServer(self.env)) as server,
            closing(Worker("ours", self.env)) as ours,
            closing(Worker("ours", self.env)) as theirs,
        ):
            info = ours.call("connect_over_ssh")
            with closing(OpenSshTunnel(server, info)) as tunnel:
                theirs.call("connect", tunnel.info)
                yield server, {"ours": ours, "ssh -L": theirs}

    @contextmanager
    def same_with_other_kernels(
        self, contestant: str, module: str, options: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[dict[str, Worker]]:
        """Give one contestant several times, each with a client of a kernel with other options.

        Args:
            contestant: who.
            module: the kernels' module.
            options: arguments of :class:`RawKernel`, by name.
        """
        with ExitStack() as stack:
            workers = {}
            for name, arguments in options.items():
                kernel = stack.enter_context(closing(RawKernel(module, self.env, **arguments)))
                worker = stack.enter_context(closing(Worker(contestant, self.env)))
                worker.call("connect", kernel.info)
                workers[name] = worker
            yield workers

    @contextmanager
    def in_containers(self, module: str) -> Iterator[tuple[Containers, dict[str, Worker]]]:
        """Give one contestant twice: with a kernel in a container, and with one of this machine."""
        with (
            closing(Containers(self.env)) as containers,
            self.connected(module, ["ours"]) as direct,
            closing(Worker("ours", self.env)) as contained,
        ):
            contained.call("connect_to_container")
            yield containers, {"contained": contained, "direct": direct["ours"]}
