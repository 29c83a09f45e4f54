"""What each row measures, and what it aims at; README.md says how each could mislead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles
from typing import Any

from .imports import import_times
from .kernels import ECHO, IPYKERNEL
from .measure import interleave
from .stage import Stage
from .table import Row, Target
from .worker import Worker

#: Row figures by contestant, in the order of the table.
_THREE = ("floor", "ours", "jupyter_client")
_BLOCKING = ("ours, blocking", "jupyter_client, blocking")

_BUFFER = 100_000_000
_MESSAGES = 20_000
_PAGE = 4096
#: The bound of a journal, as it is by default.
_JOURNAL = 256 * 1024 * 1024
_MS = 1000
_MB = 1_000_000
#: Seconds that the system gets to clear away killed kernels before the next are launched.
_SETTLE = 0.3
#: Seconds after which a nanny has given back what it does not need any more.
_SETTLED = 2.5


@dataclass(frozen=True)
class Plan:
    """How often everything is done."""

    launches: int = 7
    crowds: int = 5
    crowd: int = 10
    attaches: int = 5
    batches: int = 15
    batch: int = 200
    floods: int = 9
    echoes: int = 7
    session_rounds: int = 9
    session_messages: int = 5000
    clients: int = 10
    imports: int = 15


QUICK = Plan(
    launches=3,
    crowds=1,
    attaches=2,
    batches=5,
    batch=100,
    floods=3,
    echoes=3,
    session_rounds=3,
    session_messages=3000,
    clients=4,
    imports=5,
)


def launch(stage: Stage, plan: Plan) -> list[Row]:
    """Launch one kernel after another."""
    with stage.workers(_THREE) as workers:
        _call(workers, 1, "launch", 1)  # imports, IPython's profile
        times = _call(workers, plan.launches, "launch", 1, pause=_SETTLE)
    what = f"launch → ready, native/python3, median of {plan.launches}"
    return [_row(what, "ms", _medians(times, _MS), Target("≤", 1.05))]


def attach(stage: Stage, plan: Plan) -> list[Row]:
    """Attach to a kernel that has been running."""
    rows = []
    for name, module in (("ipykernel", IPYKERNEL), ("echo kernel", ECHO)):
        with stage.kernels(module, _THREE) as infos, stage.workers(_THREE) as workers:
            tasks = {
                who: lambda who=who: workers[who].call("attach", infos[who], 4) for who in _THREE
            }
            interleave(1, tasks)
            times = _flat(interleave(plan.attaches, tasks))
        target = Target("≤", 10, of="")
        rows.append(_row(f"attach to a live kernel, {name}", "ms", _medians(times, _MS), target))
    return rows


def roundtrip(stage: Stage, plan: Plan) -> list[Row]:
    """Execute an empty cell; reply and idle received."""
    with stage.connected(ECHO, _THREE + _BLOCKING) as workers:
        _call(workers, 1, "round_trips", plan.batch)
        times = _medians(_flat(_call(workers, plan.batches, "round_trips", plan.batch)), _MS)
    floor, (ours, peer) = times["floor"], _BLOCKING
    return [
        _row("execute round trip, echo kernel, async", "ms", times, Target("≤", 1.2)),
        Row(
            "execute round trip, echo kernel, blocking",
            "ms",
            times[ours],
            floor,
            times[peer],
            Target("≤", 1.6),
        ),
    ]


def flood(stage: Stage, plan: Plan) -> list[Row]:
    """Take a burst of output."""
    with stage.connected(ECHO, _THREE) as workers:
        _call(workers, 1, "flood", 1000, read=True)
        tasks = {
            who: lambda worker=worker: worker.call("flood", _MESSAGES, read=True)
            for who, worker in workers.items()
        }
        # Only ours leaves content alone that nobody looks at.
        tasks["taken"] = lambda: workers["ours"].call("flood", _MESSAGES, read=False)
        floods = interleave(plan.floods, tasks)
    rates = {
        who: median(one["received"] / one["seconds"] for one in ones)
        for who, ones in floods.items()
    }
    lost = {
        who: max(float(_MESSAGES - one["received"]) for one in ones) for who, ones in floods.items()
    }
    what = f"{_MESSAGES:,} iopub messages of 200 B"
    return [
        _row(f"{what}, read", "/s", rates, Target("≥", 0.9)),
        _row(f"{what}, content not looked at", "/s", {**rates, "ours": rates["taken"]}),
        _row(f"{what}, lost", "", lost, Target("≤", 0, of="")),
    ]


def buffer(stage: Stage, plan: Plan) -> list[Row]:
    """Send a large buffer and have it back."""
    with stage.connected(ECHO, _THREE) as workers:
        _call(workers, 1, "prepare_payload", _BUFFER)
        before = _call(workers, 1, "peak_memory")
        _call(workers, 1, "echo")
        after = _call(workers, 1, "peak_memory")
        times = _call(workers, plan.echoes, "echo")
    # One payload's growth is the message received, which there is no way around.
    # What is no whole copy is the allocator's.
    copies = {who: round(abs((after[who][0] - before[who][0]) / _BUFFER - 1), 1) for who in _THREE}
    what = f"{_BUFFER // 1_000_000} MB buffer echoed"
    return [
        _row(what, "ms", _medians(times, _MS), Target("≤", 1.1)),
        _row(f"{what}, extra copies", "", copies, Target("≤", 1, of="")),
    ]


def session(stage: Stage, plan: Plan) -> list[Row]:
    """Messages to frames and back, without sockets."""
    count = plan.session_messages
    with stage.workers(_THREE) as workers:
        _call(workers, 1, "decode_rate", count, read=True)
        decode = _call(workers, plan.session_rounds, "decode_rate", count, read=False)
        read = _call(workers, plan.session_rounds, "decode_rate", count, read=True)
        encode = _call(workers, plan.session_rounds, "encode_rate", count)
        make = _call(workers, plan.session_rounds, "make_rate", count)
    hundred, more = (Target("≥", limit, of="") for limit in (100_000, 150_000))
    return [
        _row("verify + deserialise", "/s", _medians(decode), hundred),
        _row("verify + deserialise, content read", "/s", _medians(read)),
        _row("serialise + sign", "/s", _medians(encode), more),
        _row("make a request, serialise + sign", "/s", _medians(make)),
    ]


def footprint(stage: Stage, plan: Plan) -> list[Row]:
    """Threads and descriptors of one client more."""
    rows = []
    for name, used in (("ready", False), ("all channels used", True)):
        with stage.kernels(ECHO, _THREE) as infos, stage.workers(_THREE) as workers:
            costs = {
                who: workers[who].call("footprint", infos[who], plan.clients, used=used)
                for who in _THREE
            }
        for kind, limit in (("threads", 0), ("descriptors", 12)):
            figures = {who: costs[who][kind] for who in _THREE}
            target = Target("≤", limit, of="")
            rows.append(_row(f"per further client, {name}: {kind}", "", figures, target))
    return rows


def imports(stage: Stage, plan: Plan) -> list[Row]:
    """Import in fresh interpreters; the floor is ``import zmq``."""
    times = import_times(plan.imports, stage.env)
    zmq = times["zmq"]
    return [
        Row("import kernel_mgmt", "ms", times["ours"], zmq, times["peer"], Target("≤", 1.5)),
        Row("… and KernelClient, KernelFinder", "ms", times["ours, used"], zmq, times["peer"]),
    ]


def crowd(stage: Stage, plan: Plan) -> list[Row]:
    """Launch several kernels at once."""
    with stage.workers(_THREE) as workers:
        _call(workers, 1, "launch", 1)
        times = _call(workers, plan.crowds, "launch", plan.crowd, pause=_SETTLE)
    what = f"{plan.crowd} kernels at once, all ready"
    return [_row(what, "ms", _medians(times, _MS), Target("≤", 1.05))]


def encryption(stage: Stage, plan: Plan) -> list[Row]:
    """Do the same over TCP with CURVE and without."""
    kernels = {"plain": {"transport": "tcp"}, "CURVE": {"transport": "tcp", "curve": True}}
    with (
        stage.same_with_other_kernels("ours", ECHO, kernels) as ours,
        stage.same_with_other_kernels("floor", ECHO, kernels) as raw,
    ):
        workers = {**ours, **{f"raw {name}": worker for name, worker in raw.items()}}
        _call(workers, 1, "round_trips", plan.batch)
        trips = _medians(_flat(_call(workers, plan.batches, "round_trips", plan.batch)), _MS)
        _call(workers, 1, "prepare_payload", _BUFFER)
        _call(workers, 1, "echo")
        echoes = _medians(_call(workers, plan.echoes, "echo"), _MS)
    rows = []
    for what, times, limit in (
        ("execute round trip, echo kernel, CURVE", trips, 1.25),
        (f"{_BUFFER // 1_000_000} MB buffer echoed, CURVE", echoes, 2),
    ):
        target = Target("≤", limit, of="plain TCP")
        rows += [
            Row(what, "ms", times["CURVE"], times["plain"], target=target),
            Row(f"{what}, raw sockets", "ms", times["raw CURVE"], times["raw plain"]),
        ]
    return rows


def restart(stage: Stage, plan: Plan) -> list[Row]:
    """Restart a kernel by hand, beside launching one."""
    with stage.workers(("ours",)) as workers:
        worker = workers["ours"]
        tasks = {
            "launch": lambda: worker.call("launch", 1),
            "restart": lambda: worker.call("restart"),
        }
        interleave(1, tasks)
        times = _medians(interleave(plan.launches, tasks, pause=_SETTLE), _MS)
    target = Target("≤", 1.05, of="launch")
    what = "restart → ready, native/python3"
    return [Row(what, "ms", times["restart"], times["launch"], target=target)]


def inprocess(stage: Stage, plan: Plan) -> list[Row]:
    """Launch a kernel inside a process that has none yet, and once more, beside launching one."""
    times: dict[str, list[float]] = {"launch": [], "first": [], "again": []}
    for number in range(plan.launches + 1):
        with stage.workers(("ours",)) as workers:
            worker = workers["ours"]
            round_ = {
                "first": worker.call("launch_in_process"),
                "again": worker.call("launch_in_process"),
                "launch": worker.call("launch", 1),
            }
        if number:  # the round before the first has warmed up the disk
            for name, seconds in round_.items():
                times[name].append(seconds)
    medians = _medians(times, _MS)
    target = Target("≤", 0.5, of="launch")
    return [
        Row(
            f"launch → ready, native/inprocess, {name}",
            "ms",
            medians[which],
            medians["launch"],
            target=target,
        )
        for which, name in (("first", "first of its process"), ("again", "a later one"))
    ]


def nanny(stage: Stage, plan: Plan) -> list[Row]:
    """Do through a nanny what is done with a kernel directly."""
    with stage.directly_and_through_nanny("ours", ECHO) as (direct, kept):
        workers = {"direct": direct, "kept": kept}
        memory = {"started": kept.call("nanny_memory") / _MB}
        _call(workers, 1, "round_trips", plan.batch)
        trips = _medians(_flat(_call(workers, plan.batches, "round_trips", plan.batch)), _MS)
        _call(workers, 1, "flood", 1000, read=True)
        floods = _call(workers, plan.floods, "flood", _MESSAGES, read=True)
        time.sleep(_SETTLED)
        memory["flooded"] = kept.call("nanny_memory") / _MB
        _call(workers, 1, "prepare_payload", _BUFFER)
        _call(workers, 1, "echo")
        echoes = _medians(_call(workers, plan.echoes, "echo"), _MS)
        time.sleep(_SETTLED)
        memory["used"] = kept.call("nanny_memory") / _MB
    rates = {who: median(one["received"] / one["seconds"] for one in floods[who]) for who in floods}
    lost = max(float(_MESSAGES - one["received"]) for one in floods["kept"])
    through = "through a nanny"
    messages = f"{_MESSAGES:,} iopub messages of 200 B, {through}"
    return [
        _against_direct(f"execute round trip, echo kernel, {through}", "ms", trips, "≤", 2),
        _against_direct(messages, "/s", rates, "≥", 0.5),
        Row(f"{messages}, lost", "", lost, target=Target("≤", 0, of="")),
        _against_direct(f"{_BUFFER // _MB} MB buffer echoed, {through}", "ms", echoes, "≤", 1.5),
        Row("a nanny's memory", "MB", memory["started"], target=Target("≤", 40, of="")),
        Row("… after these messages", "MB", memory["flooded"], target=Target("≤", 40, of="")),
        Row("… and buffers", "MB", memory["used"], target=Target("≤", 40, of="")),
        _detached_launch(stage, plan),
    ]


def journal(stage: Stage, plan: Plan) -> list[Row]:
    """Do with a nanny that keeps a journal what is done with one that keeps none; and read it."""
    with stage.with_journals(_JOURNAL) as workers:
        _call(workers, 1, "round_trips", plan.batch)
        trips = _medians(_flat(_call(workers, plan.batches, "round_trips", plan.batch)), _MS)
        _call(workers, 1, "flood", 1000, read=True)
        floods = _call(workers, plan.floods, "flood", _MESSAGES, read=True)
        kept = workers["with"]
        kept.call("leave")
        small = _replays(kept, plan, megabytes=20, size=200)
        large = _replays(kept, plan, megabytes=200, size=_MB)
        memory = kept.call("put_out", 2000, 100_000)
        told = kept.call("journal")
        catching_up = max(
            median(kept.call("catch_up", after) for _ in range(plan.attaches)) * _MS
            for after in (told["first"], (told["first"] + told["next"]) // 2, told["next"] - 10)
        )
    rates = {who: median(one["received"] / one["seconds"] for one in floods[who]) for who in floods}

    trip, flood = "execute round trip, echo kernel", f"{_MESSAGES:,} iopub messages of 200 B"
    slower, faster = Target("≤", 1.1, of="without"), Target("≥", 0.9, of="without")
    return [
        Row(f"{trip}, with a journal", "ms", trips["with"], trips["without"], target=slower),
        Row("… that is not read", "ms", trips["unread"], trips["without"], target=slower),
        Row(f"{flood}, with a journal", "/s", rates["with"], rates["without"], target=faster),
        Row("… that is not read", "/s", rates["unread"], rates["without"], target=faster),
        Row(
            "replay of messages of 200 B",
            "/s",
            median(one["messages"] / one["seconds"] for one in small),
            target=Target("≥", 100_000, of=""),
        ),
        Row(
            "replay of messages of 1 MB",
            "MB/s",
            median(one["messages"] / one["seconds"] for one in large),  # each has one MB
            target=Target("≥", 300, of=""),
        ),
        Row(
            "a nanny's memory beyond before, at most, while 2 GB come and nobody reads",
            "MB",
            (memory["most"] - memory["before"]) / _MB,
            target=Target("≤", 64 * 1.048576, of=""),
        ),
        Row(
            f"first message of {told['bytes'] // _MB} MB of journal, wherever begun, slowest",
            "ms",
            catching_up,
            target=Target("≤", 50, of=""),
        ),
    ]


def _replays(kept: Worker, plan: Plan, *, megabytes: int, size: int) -> list[dict[str, Any]]:
    """Have much printed, and read it some times."""
    after = kept.call("journal")["next"] - 1
    kept.call("put_out", megabytes, size)
    return [kept.call("replay", after) for _ in range(plan.echoes)]


def ssh(stage: Stage, plan: Plan) -> list[Row]:
    """Do with a kernel on a host what is done with it through ``ssh -L``."""
    with stage.over_ssh() as (server, workers):
        _call(workers, 1, "round_trips", plan.batch)
        empty = _medians(_flat(_call(workers, plan.batches, "round_trips", plan.batch)), _MS)
        trips = _flat(_call(workers, plan.batches, "round_trips", plan.batch, _PAGE))
        middle = _medians(trips, _MS)
        slowest = {who: quantiles(times, n=100)[98] * _MS for who, times in trips.items()}
        _call(workers, 1, "prepare_payload", _BUFFER)
        _call(workers, 1, "echo")
        rates = {
            who: 2 * _BUFFER / _MB / seconds
            for who, seconds in _medians(_call(workers, plan.echoes, "echo")).items()
        }
        ours = workers["ours"]
        tasks = {
            "launch": lambda: ours.call("launch", 1),
            "remote": lambda: ours.call("launch_over_ssh"),
        }
        interleave(1, tasks)
        logins = server.handshakes()
        launches = _medians(interleave(plan.launches, tasks, pause=_SETTLE), _MS)
        logins = server.handshakes() - logins
    what = "execute round trip over ssh, echo kernel"
    page = f"{what}, {_PAGE // 1024} KiB printed"

    def against(what: str, unit: str, figures: Mapping[str, float], target: Target) -> Row:
        return Row(what, unit, figures["ours"], figures["ssh -L"], target=target)

    return [
        against(what, "ms", empty, Target("≤", 1.5, of="ssh -L")),
        against(page, "ms", middle, Target("≤", 1.5, of="ssh -L")),
        against(f"{page}, p99", "ms", slowest, Target("≤", 10, of="")),
        against(
            f"{_BUFFER // _MB} MB buffer echoed over ssh",
            "MB/s",
            rates,
            Target("≥", 0.5, of="ssh -L"),
        ),
        Row(
            "launch → ready over ssh, ipykernel, beyond native launch",
            "ms",
            launches["remote"] - launches["launch"],
            target=Target("≤", 500, of=""),
        ),
        Row(f"logins for {plan.launches} kernels more", "", logins, target=Target("≤", 0, of="")),
    ]


def docker(stage: Stage, plan: Plan) -> list[Row]:
    """Do with kernels in containers what is done with others, or by ``docker run``."""
    with stage.in_containers(ECHO) as (containers, workers):
        _call(workers, 1, "round_trips", plan.batch)
        trips = _medians(_flat(_call(workers, plan.batches, "round_trips", plan.batch)), _MS)
        _call(workers, 1, "prepare_payload", _BUFFER)
        _call(workers, 1, "echo")
        echoes = _medians(_call(workers, plan.echoes, "echo"), _MS)
        with stage.workers(("ours", "floor")) as launchers:
            tasks = {
                "ours": lambda: launchers["ours"].call("launch_in_containers", 1),
                "run": lambda: launchers["floor"].call("launch_in_container", containers.image),
            }
            interleave(1, tasks)
            launches = _medians(interleave(plan.launches, tasks, pause=_SETTLE), _MS)
            # One that fails ends the benchmark.
            crowd = median(
                launchers["ours"].call("launch_in_containers", plan.crowd)
                for _ in range(plan.crowds)
            )

    def against_local(what: str, figures: Mapping[str, float], limit: float) -> Row:
        target = Target("≤", limit, of="local")
        return Row(what, "ms", figures["contained"], figures["direct"], target=target)

    return [
        Row(
            "launch → ready in a container, ipykernel",
            "ms",
            launches["ours"],
            launches["run"],
            target=Target("≤", 1.1, of="docker run"),
        ),
        against_local("execute round trip, echo kernel in a container", trips, 1.05),
        against_local(f"{_BUFFER // _MB} MB buffer echoed by a container", echoes, 1.1),
        Row(f"{plan.crowd} containers at once, all ready", "ms", crowd * _MS),
    ]


def _against_direct(
    what: str, unit: str, figures: Mapping[str, float], sign: str, limit: float
) -> Row:
    target = Target(sign, limit, of="direct")
    return Row(what, unit, figures["kept"], figures["direct"], target=target)


def _detached_launch(stage: Stage, plan: Plan) -> Row:
    with stage.workers(("ours",)) as workers:
        worker = workers["ours"]
        tasks = {
            "launch": lambda: worker.call("launch", 1),
            "detached": lambda: worker.call("launch_detached"),
        }
        interleave(1, tasks)
        times = _medians(interleave(plan.launches, tasks, pause=_SETTLE), _MS)
    return Row(
        "detached start → ready, native/python3, beyond launch → ready",
        "ms",
        times["detached"] - times["launch"],
        target=Target("≤", 150, of=""),
    )


#: By the names of ``--only``, in the order of the table.
GROUPS: dict[str, Callable[[Stage, Plan], list[Row]]] = {
    function.__name__: function
    for function in (
        launch,
        attach,
        roundtrip,
        flood,
        buffer,
        session,
        footprint,
        imports,
        crowd,
        encryption,
        restart,
        inprocess,
        nanny,
        journal,
        ssh,
        docker,
    )
}


def _call(
    workers: Mapping[str, Worker],
    rounds: int,
    method: str,
    *args: Any,
    pause: float = 0,
    **kwargs: Any,
) -> dict[str, list[Any]]:
    """Have every contestant do the same, by turns."""
    tasks = {
        name: lambda worker=worker: worker.call(method, *args, **kwargs)
        for name, worker in workers.items()
    }
    return interleave(rounds, tasks, pause=pause)


def _flat(results: Mapping[str, list[Iterable[float]]]) -> dict[str, list[float]]:
    return {name: list(chain.from_iterable(lists)) for name, lists in results.items()}


def _medians(results: Mapping[str, list[float]], factor: float = 1) -> dict[str, float]:
    return {name: median(values) * factor for name, values in results.items()}


def _row(what: str, unit: str, figures: Mapping[str, float], target: Target | None = None) -> Row:
    return Row(what, unit, figures["ours"], figures["floor"], figures["jupyter_client"], target)
