"""Finding kernel types wherever they are, and handing a launch to the one provider of an id."""

from __future__ import annotations

import concurrent.futures
import difflib
import inspect
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from .background import finish, in_thread, result_of
from .connection import ConnectionInfo
from .errors import (
    KernelMgmtError,
    LaunchError,
    NoSuchKernel,
    NoSuchProvider,
    ProviderError,
    RequestTimeout,
    one_line,
)
from .hookspecs import PROJECT_NAME
from .launch import (
    KernelProblem,
    KernelRecord,
    KernelType,
    Launched,
    LaunchRequest,
    NannyOptions,
    ProgressHandler,
    PromptHandler,
)
from .manager import KernelManager
from .plugins import Problem, Provider, load_providers, wrap_plugins

__all__ = ["KernelFinder"]

logger = logging.getLogger("kernel_mgmt")

#: How long all providers together may take to find their kernels, in seconds.
FIND_TIMEOUT = 2.0

# It becomes part of the names of files, containers and the like.
_KERNEL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

#: What one provider's find hook gave.
Answer = tuple[list[KernelType], list[KernelProblem]]


class KernelFinder:
    """Knows the providers, finds their kernel types, and launches by id.

    A provider that is broken, raises or is slow costs its own kernel types alone, and
    :attr:`problems` says why.

    Args:
        plugins: a module or object that implements the hooks of
            :mod:`kernel_mgmt.hookspecs`, by provider id.
        find_timeout: seconds that the providers together may take to find kernels.
    """

    def __init__(
        self, plugins: Mapping[str, object] | None = None, *, find_timeout: float = FIND_TIMEOUT
    ) -> None:
        self._providers, self._load_problems = wrap_plugins(plugins or {})
        self._find_problems: dict[str, list[Problem]] = {}
        self._find_timeout = find_timeout
        #: Those who have been asked and have not answered yet: they are not asked again.
        self._asked: dict[str, concurrent.futures.Future[Answer]] = {}

    @classmethod
    def from_entrypoints(cls) -> KernelFinder:
        """Make a finder with every provider that is installed in this environment."""
        finder = cls()
        finder._providers, finder._load_problems = load_providers()
        return finder

    @property
    def providers(self) -> dict[str, Provider]:
        """The providers that could be loaded, by id."""
        return dict(self._providers)

    @property
    def problems(self) -> list[Problem]:
        """What was wrong when providers were loaded, and when they were last asked."""
        return [*self._load_problems, *chain.from_iterable(self._find_problems.values())]

    def __repr__(self) -> str:
        return f"<KernelFinder {' '.join(self._providers)}, {len(self.problems)} problems>"

    # -- finding ---------------------------------------------------------------------------

    def find_kernels(self) -> list[KernelType]:
        """Give all kernel types of all providers, ordered by provider, then as it gave them."""
        return self._find(list(self._providers.values()))

    def get(self, type_id: str) -> KernelType:
        """Give the kernel type with an id.

        Args:
            type_id: ``provider/name``; a bare name will do when one provider alone has it.
                Upper and lower case are the same where that leaves one type.

        Raises:
            NoSuchKernel: there is none, or several fit; near ones are in the message.
            NoSuchProvider: no provider with that id is installed.
            ProviderError: that provider is installed but cannot be used.
        """
        provider_id, slash, name = type_id.partition("/")
        if not slash:
            return self._get_by_bare_name(type_id)
        types = self._find([self._provider(provider_id, type_id)])
        problems = self._find_problems[provider_id]
        return self._pick(types, name) or self._not_found(type_id, name, types, problems)

    def _get_by_bare_name(self, name: str) -> KernelType:
        types = self.find_kernels()
        same = [t for t in types if t.name == name] or [
            t for t in types if t.name.casefold() == name.casefold()
        ]
        if len(same) == 1:
            return same[0]
        if not same:
            return self._not_found(name, name, types, self.problems)
        ids = [kernel_type.id for kernel_type in same]
        raise NoSuchKernel(
            f"Several kernel types are named {name!r}: {', '.join(ids)}; say which one.",
            type_id=name,
            candidates=ids,
        )

    @staticmethod
    def _pick(types: list[KernelType], name: str) -> KernelType | None:
        for kernel_type in types:
            if kernel_type.name == name:
                return kernel_type
        folded = [t for t in types if t.name.casefold() == name.casefold()]
        return folded[0] if len(folded) == 1 else None

    @staticmethod
    def _not_found(
        type_id: str, name: str, types: list[KernelType], problems: list[Problem]
    ) -> NoReturn:
        """Say what is wrong with the type, or else which ones are near, or else which there are."""
        by_name: dict[str, list[str]] = {}
        for kernel_type in types:
            by_name.setdefault(kernel_type.name.casefold(), []).append(kernel_type.id)
        near_names = difflib.get_close_matches(name.casefold(), by_name, n=3, cutoff=0.5)
        near = [near_id for near_name in near_names for near_id in by_name[near_name]]
        exact = [p for p in problems if p.kernel and p.kernel.casefold() == name.casefold()]
        general = [p for p in problems if not p.kernel]
        if exact:
            advice = " ".join(problem.message for problem in exact)
        elif near:
            advice = f"did you mean {' or '.join(near)}?"
        elif general and type_id != name:  # all of them are the one provider's
            advice = " ".join(problem.message for problem in general)
        elif types:
            known = f"there are {', '.join(t.id for t in types[:10])}."
            advice = " ".join([known, *map(str, general)])
        elif problems:
            advice = " ".join(["no kernel was found at all.", *map(str, problems)])
        elif type_id != name:
            advice = (
                f"the provider {type_id.partition('/')[0]!r} has none; see how it is told of some."
            )
        else:
            advice = "no kernel was found at all; install a provider, such as kernel-mgmt-native."
        raise NoSuchKernel(
            f"There is no kernel type {type_id!r}; {advice}", type_id=type_id, candidates=near
        )

    def _provider(self, provider_id: str, type_id: str) -> Provider:
        provider = self._providers.get(provider_id)
        if provider is not None:
            return provider
        for problem in self._load_problems:
            if problem.provider == provider_id:
                raise ProviderError(
                    f"The provider {provider_id!r} of {type_id!r} cannot be used: "
                    f"{problem.message}",
                    provider=provider_id,
                    distributions=problem.distributions,
                )
        folded = {known.casefold(): known for known in self._providers}
        near_names = difflib.get_close_matches(provider_id.casefold(), folded, n=3, cutoff=0.5)
        near = [folded[near_name] for near_name in near_names]
        installed = f"(installed are: {', '.join(self._providers) or 'none'})."
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        elif not provider_id:
            advice = f"the id of a kernel type is provider/name {installed}"
        else:
            advice = f"pip install kernel-mgmt-{provider_id}, if there is such a distribution {installed}"
        raise NoSuchProvider(
            f"There is no provider {provider_id!r} for {type_id!r}; {advice}",
            type_id=type_id,
            candidates=near,
        )

    def _find(self, providers: list[Provider]) -> list[KernelType]:
        """Ask some providers at the same time, each in a thread so that none can block us."""
        asked = {provider.id: self._ask(provider) for provider in providers}
        concurrent.futures.wait(asked.values(), self._find_timeout)
        types: list[KernelType] = []
        for provider in providers:
            if asked[provider.id].done():
                found, problems = asked[provider.id].result()
            else:
                slow = (
                    f"It did not list its kernels within {self._find_timeout:g} s; "
                    "finding must be local and quick."
                )
                found, problems = [], [KernelProblem("", slow)]
            types += found
            self._note(provider, problems)
        return types

    def _ask(self, provider: Provider) -> concurrent.futures.Future[Answer]:
        before = self._asked.get(provider.id)
        if before is not None and not before.done():
            return before  # else a provider that never answers would cost a thread each time
        self._asked[provider.id] = in_thread(f"find-{provider.id}", lambda: _answer(provider))
        return self._asked[provider.id]

    def _note(self, provider: Provider, problems: list[KernelProblem]) -> None:
        self._find_problems[provider.id] = [
            Problem(provider.id, problem.message, provider.distribution, problem.name)
            for problem in problems
        ]

    # -- launching -------------------------------------------------------------------------

    async def resolve(self, type_id: str | KernelType) -> KernelType:
        """Give the kernel type with an id, or the type itself, without blocking the loop.

        Args:
            type_id: as for :meth:`get`.

        Raises:
            NoSuchKernel: see :meth:`get`.
        """
        if isinstance(type_id, KernelType):
            return type_id
        return await result_of(in_thread("get", lambda: self.get(type_id)))

    async def launch(
        self,
        type_id: str | KernelType,
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str | None] | None = None,
        launch_params: Mapping[str, Any] | None = None,
        kernel_id: str | None = None,
        connection_info: ConnectionInfo | None = None,
        nanny: NannyOptions | None = None,
        on_progress: ProgressHandler | None = None,
        on_prompt: PromptHandler | None = None,
    ) -> Launched:
        """Launch a kernel; returns when its sockets accept connections.

        Whether the kernel answers is what ``KernelClient.wait_for_ready`` finds out.  There is no
        time limit here: bound it with ``asyncio.timeout``; a cancelled launch leaves nothing.

        Args:
            type_id: id of the kernel type, as for :meth:`get`, or the type itself.
            cwd: the kernel's working directory.
            env: environment variables to set for the kernel; a value of None removes one.
            launch_params: parameters that the provider understands.
            kernel_id: the id of the new kernel, up to 128 ASCII letters, digits, ``.``, ``_`` and
                ``-``; a fresh UUID by default.
            connection_info: endpoints and key that the kernel shall use; with a nanny, those at
                which the nanny listens.
            nanny: the kernel shall outlive this process, kept by a nanny with these options.
            on_progress: is told of each step, a :class:`LaunchProgress`.
            on_prompt: answers a :class:`Prompt`, at once or as an awaitable.

        Returns:
            The connection info and the manager.

        Raises:
            NoSuchKernel: see :meth:`get`.
            ProviderError: the provider cannot launch, or broke its contract.
            LaunchError: the launch failed, or kernels of this type cannot outlive this process;
                nothing of it is left.
        """
        kernel_type = await self.resolve(type_id)
        provider = self._provider(kernel_type.provider, kernel_type.id)
        if not provider.can_launch:
            raise self._provider_error(provider, "it has no launch hook")
        if kernel_id is not None and not _KERNEL_ID.fullmatch(kernel_id):
            raise LaunchError(
                f"the kernel id {kernel_id[:200]!r} cannot be used.",
                phase="resolve",
                advice="Take up to 128 ASCII letters, digits, '.', '_' and '-'; or leave it out.",
            )
        request = LaunchRequest(
            kernel_type=kernel_type,
            kernel_id=kernel_id or str(uuid.uuid4()),
            cwd=None if cwd is None else Path(os.path.expanduser(cwd)),
            env=dict(env or {}),
            launch_params=dict(launch_params or {}),
            connection_info=connection_info,
            nanny=nanny,
            on_progress=on_progress,
            on_prompt=on_prompt,
        )
        request.progress("resolve", f"Found {kernel_type.id}")
        launched = _with_manager(
            await self._call(provider, "launch", request=request), request.kernel_id
        )
        if nanny is not None and not _outlives_us(launched):
            await finish(_end(launched))
            raise LaunchError(
                f"kernels of type {kernel_type.id} end with the process that launches them.",
                phase="resolve",
                advice="Take another type, or launch it without a nanny.",
            )
        return launched

    async def attach(self, record: KernelRecord) -> Launched:
        """Find a running kernel again.

        One that has a nanny is found without its provider, unless that has an attach hook.  One whose
        record names no machine is always its provider's.

        Args:
            record: what is known of it.

        Returns:
            The connection info and the manager; whether the kernel is alive, the manager knows.

        Raises:
            NoSuchProvider: its provider is not installed.
            ProviderError: the provider cannot attach to kernels, or broke its contract.
            LaunchError: the kernel was not found.
            NannyError: the record says that the kernel has a nanny, and not where that listens.
        """
        provider = self._providers.get(record.provider)
        if provider is not None and provider.can_attach:
            launched = await self._call(provider, "attach", record=record)
            return _with_manager(launched, record.kernel_id)
        if "nanny" in record.manager and record.machine:
            return _managed_by_nanny(record.connection_info, record.kernel_id)
        provider = self._provider(record.provider, record.type_id)
        raise self._provider_error(provider, "its kernels end with the process that launched them")

    async def _call(self, provider: Provider, what: str, **arguments: Any) -> Launched:
        hook = getattr(provider.hooks, f"{PROJECT_NAME}_{what}_kernel")
        try:
            awaitable = hook(**arguments)
            if not inspect.isawaitable(awaitable):
                raise self._provider_error(
                    provider, f"its {what} hook gave {awaitable!r} instead of an awaitable"
                )
            launched = await awaitable
        except KernelMgmtError:
            raise
        except (Exception, SystemExit) as error:
            raise LaunchError(
                f"the provider {provider.id!r} raised {_told(error)}.",
                phase="start",
                advice=f"This is a defect of {provider.distribution or 'the provider'}.",
            ) from error
        match launched:
            case Launched(ConnectionInfo(), KernelManager() | None):
                return launched
        raise self._provider_error(
            provider, f"its {what} hook gave {launched!r} instead of a Launched"
        )

    @staticmethod
    def _provider_error(provider: Provider, what: str) -> ProviderError:
        return ProviderError(
            f"The provider {provider.id!r} cannot do this: {what}.",
            provider=provider.id,
            distributions=[provider.distribution] if provider.distribution else [],
        )


def _with_manager(launched: Launched, kernel_id: str) -> Launched:
    """Give a kernel with a nanny the manager that talks to it, when its provider gave none."""
    info, manager = launched
    if manager is not None or info.nanny_control_port is None:
        return launched
    return _managed_by_nanny(info, kernel_id)


def _managed_by_nanny(info: ConnectionInfo, kernel_id: str) -> Launched:
    from .nanny_client.manager import RemoteKernelManager

    return Launched(info, RemoteKernelManager(info, kernel_id=kernel_id))


def _outlives_us(launched: Launched) -> bool:
    """Tell whether a kernel will be found again when this process has ended."""
    info, manager = launched
    return info.nanny_control_port is not None or (
        manager is not None and manager.record() is not None
    )


async def _end(launched: Launched) -> None:
    """End a kernel that was just launched, and remove what its launch made."""
    info, manager = launched
    if manager is not None:
        await manager.kill()
        await manager.cleanup()
        return
    # Only messages can.
    from .client import KernelClient

    client = KernelClient(info)
    try:
        await client.shutdown_or_terminate()
    except RequestTimeout:
        logger.warning("A kernel of %r that nobody manages did not end", info)
    finally:
        client.close()


def _answer(provider: Provider) -> Answer:
    """Call a find hook; whatever it does wrong becomes a problem."""
    found: dict[str, KernelType] = {}
    problems: list[KernelProblem] = []
    try:
        for item in _items(provider):
            match item:
                case KernelProblem(str(), str()):
                    problems.append(item)
                case KernelType(str(name)) if name and name not in found:
                    found[name] = replace(item, provider=provider.id)
                case KernelType(str(name)) if name:
                    twice = "It gave two kernel types of this name; the first counts."
                    problems.append(KernelProblem(name, twice))
                case _:
                    wrong = f"It found {item!r}, which is no KernelType with a name."
                    problems.append(KernelProblem("", wrong))
    except BaseException as error:  # noqa: BLE001 - a stranger's code must not cost the others
        problems.append(KernelProblem("", f"Listing its kernels failed: {_told(error)}."))
    return list(found.values()), problems


def _items(provider: Provider) -> Iterator[object]:
    if not provider.can_find:
        return
    answer = provider.hooks.kernel_mgmt_find_kernels()
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("its find hook is 'async def', and hooks are plain functions")
    if answer is not None:
        yield from answer


def _told(error: BaseException) -> str:
    """Give an error in one line, without a full stop."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
