"""Images of kernels: whether the engine has one, pulling it, and those that say they are kernels."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import docker
from docker import auth
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import CancellableStream, LogConfig
from docker.utils import parse_repository_tag
from kernel_mgmt import KernelProblem
from kernel_mgmt.background import in_thread, result_of

from .config import DEFAULT_ARGV, DockerKernel
from .containers import explanation, remove
from .engine import Engine
from .errors import DockerProblem

__all__ = ["LABEL_KERNEL", "Progress", "can_encrypt", "labelled_images", "provide_image", "pull"]

logger = logging.getLogger("kernel_mgmt.docker")

#: The label of images that are kernels; its value is the name of the kernel type.
LABEL_KERNEL = "kernel-mgmt.kernel"

#: Is told a line for people and how much of the pull is done, 0 to 1, or None.
Progress = Callable[[str, "float | None"], object]

#: How often progress is told, in seconds, when nothing else happens than that bytes arrive.
_INTERVAL = 0.1
#: How long a pull that was cancelled is waited for, in seconds.
_GOODBYE = 5.0


async def provide_image(
    engine: Engine, image: str, policy: str, progress: Progress
) -> Mapping[str, Any]:
    """Have the engine have an image.

    Args:
        engine: which engine.
        image: the image's name, tag and all, or its id.
        policy: when to pull it: ``missing``, ``always`` or ``never``.
        progress: is told how far a pull is.

    Returns:
        What the engine knows of the image.

    Raises:
        DockerProblem: it is not there, and cannot or must not be pulled (phase ``pull``).
    """
    found = None if policy == "always" else await _inspect(engine, image)
    if found is not None:
        return found
    if policy == "never":
        raise DockerProblem(
            f"The engine at {engine.host} has no image {image!r}, and it must not be pulled "
            "(pull = 'never').",
            kind="no-image",
            advice=f"Pull or build it first: docker pull {image}.",
            phase="pull",
        )
    await pull(engine, image, progress)
    found = await _inspect(engine, image)
    if found is None:
        raise DockerProblem(
            f"The image {image!r} was pulled, and removed again by somebody.",
            kind="no-image",
            phase="pull",
        )
    return found


async def _inspect(engine: Engine, image: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = await engine.call(engine.api.inspect_image, image, phase="pull")
    except (ImageNotFound, NotFound):
        return None
    except APIError as error:
        raise DockerProblem(
            f"The engine at {engine.host} cannot use the image's name {image!r}: "
            f"{explanation(error)}.",
            kind="bad-image",
            advice="Mend 'image'.",
            phase="pull",
        ) from error
    return found


# -- pulling ----------------------------------------------------------------------------------


async def pull(engine: Engine, image: str, progress: Progress) -> None:
    """Pull an image; when the caller is cancelled, the engine stops pulling.

    Args:
        engine: which engine.
        image: the image's name; the tag ``latest`` when it has none.
        progress: is told, on the caller's loop, how far it is.

    Raises:
        DockerProblem: it cannot be pulled (phase ``pull``).
    """
    progress(f"Pulling {image}", None)
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[tuple[str, float | None]] = asyncio.Queue()
    pulling = _Pull(engine, image)

    def tell(line: str, fraction: float | None) -> None:
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(told.put_nowait, (line, fraction))

    ended = in_thread("docker-pull", lambda: pulling.run(tell))
    waiting = loop.create_task(result_of(ended))
    try:
        while not waiting.done():
            telling = loop.create_task(told.get())
            try:
                await asyncio.wait({waiting, telling}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not telling.done():
                    telling.cancel()
            if telling.done() and not telling.cancelled():
                progress(*telling.result())
        await waiting
    except BaseException:
        pulling.cancel()
        await asyncio.wait({waiting}, timeout=_GOODBYE)
        waiting.cancel()
        raise


class _Pull:
    """One pull, in a thread."""

    def __init__(self, engine: Engine, image: str) -> None:
        self._engine = engine
        self._image = image
        self._lock = threading.Lock()
        self._stream: CancellableStream[dict[str, Any]] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Close the connection, upon which the engine gives up."""
        with self._lock:
            self._cancelled = True
            stream = self._stream
        if stream is not None:
            with suppress(DockerException, OSError, AttributeError):
                stream.close()

    def run(self, tell: Progress) -> None:
        try:
            self._run(tell)
        except DockerProblem:
            raise
        except APIError as error:
            raise self._problem(explanation(error), error.status_code) from error
        except (OSError, DockerException) as error:  # what requests raises is an OSError
            if self._cancelled:
                return
            raise DockerProblem(
                f"The connection to the engine at {self._engine.host} broke while it pulled "
                f"{self._image!r}.",
                kind="engine-down",
                advice="See whether it runs, and try again.",
                phase="pull",
            ) from error

    def _run(self, tell: Progress) -> None:
        layers = _Layers(self._image)
        last = 0.0
        response = self._request()
        lines = _json_lines(response.iter_lines())
        stream = CancellableStream(lines, response)
        with self._lock:
            self._stream = stream
            cancelled = self._cancelled
        try:
            if cancelled:
                self.cancel()
                return
            for event in stream:
                if "error" in event:
                    raise self._problem(str(event["error"]), 0)
                changed = layers.note(event)
                if changed or time.monotonic() >= last + _INTERVAL:
                    last = time.monotonic()
                    tell(layers.line, layers.fraction)
        finally:
            with self._lock:
                self._stream = None
            response.close()

    def _request(self) -> Any:
        """Ask for the image, as ``APIClient.pull`` does, which gives no way to stop."""
        api = self._engine.api
        repository, tag = parse_repository_tag(self._image)
        registry, _ = auth.resolve_repository_name(repository)
        header = auth.get_config_header(api, registry)
        response = api.post(
            f"{api.base_url}/v{api.api_version}/images/create",
            params={"fromImage": repository, "tag": tag or "latest"},
            headers={"X-Registry-Auth": header} if header else {},
            stream=True,
            timeout=None,
        )
        if response.status_code >= 400:
            with response:
                try:
                    message = str(response.json()["message"])
                except (ValueError, KeyError, TypeError):
                    message = response.text
            raise self._problem(message, response.status_code)
        return response

    def _problem(self, message: str, status: int | None) -> DockerProblem:
        reason = " ".join(message.split()).rstrip(".")
        low = reason.lower()
        if any(word in low for word in ("denied", "unauthorized", "authentication required")):
            kind, advice = "registry-refuses", "Mend the name, or log in: docker login."
            cause = f"The registry does not give the image {self._image!r}: {reason}."
        elif status == 404 or any(w in low for w in ("not found", "manifest unknown")):
            kind, advice = "no-image", "Mend the name and the tag of 'image', or build it."
            cause = (
                f"There is no image {self._image!r}, neither here nor in its registry: {reason}."
            )
        elif status == 400:
            kind, advice = "bad-image", "Mend 'image'."
            cause = f"{self._image!r} is no name of an image: {reason}."
        else:
            kind = "registry"
            advice = "See whether the engine's machine reaches the registry, and try again."
            cause = f"The image {self._image!r} could not be pulled: {reason}."
        return DockerProblem(cause, kind=kind, advice=advice, phase="pull")


def _json_lines(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line:
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


@dataclass
class _Layers:
    """How far each layer is."""

    image: str
    line: str = ""
    _loaded: dict[str, float] = field(default_factory=dict)
    _unpacked: dict[str, float] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)

    @property
    def fraction(self) -> float | None:
        """How much of the pull is done; a layer is half done when it was downloaded."""
        if not self._sizes:
            return None
        usual = sum(self._sizes.values()) / len(self._sizes)
        weights = {layer: self._sizes.get(layer, usual) for layer in self._loaded}
        whole = sum(weights.values())
        done = sum(
            weight * (self._loaded[layer] + self._unpacked.get(layer, 0.0)) / 2
            for layer, weight in weights.items()
        )
        return min(1.0, done / whole) if whole else None

    def note(self, event: Mapping[str, Any]) -> bool:
        """Take note of an event; tells whether it is more than a few further bytes."""
        status, layer = str(event.get("status", "")), str(event.get("id", ""))
        detail = event.get("progressDetail") or {}
        current, total = detail.get("current"), detail.get("total")
        part = min(1.0, current / total) if current and total and total > 0 else 0.0
        line = f"Pulling {self.image}: {status}"
        if status in ("Pulling fs layer", "Waiting"):
            self._loaded.setdefault(layer, 0.0)
        elif status == "Downloading":
            self._loaded[layer] = part
            if total and total > 0:
                self._sizes[layer] = total
        elif status in ("Verifying Checksum", "Download complete"):
            self._loaded[layer] = 1.0
        elif status == "Extracting":
            self._loaded[layer], self._unpacked[layer] = 1.0, part
        elif status in ("Pull complete", "Already exists"):
            self._loaded[layer] = self._unpacked[layer] = 1.0
        else:
            layer = ""
        if layer:
            line = f"Pulling {self.image}: {layer} {status.lower()}"
        changed = line != self.line.partition(" (")[0]
        if current and total:
            line += f" ({current / 1e6:.1f} of {total / 1e6:.1f} MB)"
        self.line = line
        return changed


# -- images that say they are kernels -----------------------------------------------------------


def labelled_images(api: docker.APIClient) -> list[dict[str, Any] | KernelProblem]:
    """Give the images that have the label ``kernel-mgmt.kernel``, as tables of a configuration.

    Beside the name, an image's labels may tell ``kernel-mgmt.display-name``, ``kernel-mgmt.language``,
    ``kernel-mgmt.interrupt-mode``, and by ``kernel-mgmt.argv`` the command as a JSON list.

    Args:
        api: docker-py's client.

    Returns:
        For each what :meth:`DockerKernel.from_dict` reads, or why it cannot be used.
    """
    found: list[dict[str, Any] | KernelProblem] = []
    for image in api.images(filters={"label": LABEL_KERNEL}):
        given = image.get("Labels") or {}
        name = str(given.get(LABEL_KERNEL, ""))
        tags = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"]
        table: dict[str, Any] = {
            "name": name,
            "image": tags[0] if tags else image["Id"],
            # It is here, and another of that name is not what was found.
            "pull": "never",
        }
        for key in ("display-name", "language", "interrupt-mode"):
            if value := given.get(f"kernel-mgmt.{key}"):
                table[key.replace("-", "_")] = value
        try:
            if argv := given.get("kernel-mgmt.argv"):
                table["argv"] = json.loads(argv)
        except ValueError:
            message = (
                f"The image {table['image']!r} has a label kernel-mgmt.argv that is no JSON list."
            )
            found.append(KernelProblem(name, message))
        else:
            found.append(table)
    return found


# -- what is in an image ------------------------------------------------------------------------

_ASK = "import json, importlib.metadata as m; print(json.dumps(m.version('ipykernel')))"
#: The versions of ipykernel in images that were asked, by the image's id and the interpreter.
_versions: dict[tuple[str, str], str] = {}


async def can_encrypt(engine: Engine, kernel: DockerKernel, image: Mapping[str, Any]) -> bool:
    """Tell whether a kernel encrypts its channels by CURVE: ipykernel does, from 7.3 on.

    The image is asked, by a container that can do nothing; once in the life of this process.

    Args:
        engine: which engine.
        kernel: what runs.
        image: what the engine knows of its image.
    """
    argv = kernel.argv or DEFAULT_ARGV
    if argv[1:3] not in (("-m", "ipykernel_launcher"), ("-m", "ipykernel")):
        return False
    key = (str(image.get("Id", kernel.image)), argv[0])
    if key not in _versions:
        try:
            _versions[key] = await engine.call(_ask_image, engine.api, *key)
        except APIError as error:
            logger.debug("The image %s does not tell its ipykernel: %s", kernel.image, error)
            return False
    numbers = [int(part) if part.isdigit() else 0 for part in _versions[key].split(".")[:2]]
    return numbers >= [7, 3]


def _ask_image(api: docker.APIClient, image: str, python: str) -> str:
    """Give the version of ipykernel; empty when it has none."""
    host_config = api.create_host_config(
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=16,
        mem_limit=2**28,
        memswap_limit=2**28,
        log_config=LogConfig(type="json-file", config={"max-size": "100k"}),
    )
    made = api.create_container(
        image,
        entrypoint=[python],
        command=["-c", _ASK],
        user="10001:10001",
        host_config=host_config,
        labels={"kernel-mgmt.question": "1"},
    )
    try:
        api.start(made["Id"])
        api.wait(made["Id"], timeout=30)
        answer = bytes(api.logs(made["Id"], stdout=True, stderr=False)).decode("utf-8", "replace")
    finally:
        remove(api, made["Id"])
    try:
        return str(json.loads(answer))
    except ValueError:
        return ""
