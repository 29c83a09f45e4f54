"""Files of host keys: read as sshd(8) has them, and what is said about a key."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt_ssh.errors import SshError
from kernel_mgmt_ssh.routes import Hop
from kernel_mgmt_ssh.tunnel.host_keys import (
    KnownHosts,
    Line,
    fingerprint,
    names_match,
    parse_line,
)
from sshds import new_key


def blob(kind: str, secret: str = "") -> bytes:
    """Give what looks like a public key."""
    return len(kind).to_bytes(4, "big") + kind.encode() + secret.encode()


def text(kind: str, secret: str = "") -> str:
    """Give a public key as files have it."""
    return f"{kind} {base64.b64encode(blob(kind, secret)).decode()}"


ED, EC, RSA = "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"
ALGORITHMS = (ED, EC, "rsa-sha2-512", "rsa-sha2-256")


def known(path: Path, *lines: str, **settings: object) -> KnownHosts:
    """Give what a file with some lines says about a host."""
    path.write_text("".join(f"{line}\n" for line in lines))
    hop = Hop("h", "host.example", 22, "u", known_hosts=(str(path),), accept_file=str(path))
    values = {**hop.to_dict(), **settings}
    return KnownHosts(Hop.from_dict(values))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of host keys is."""
    return tmp_path / "known_hosts"


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        ("host.example", {}),
        ("HOST.example", {}),
        ("other,host.example", {}),
        ("*.example", {}),
        ("h?st.example,!other.example", {}),
        ("[host.example]:2222", {"port": 2222}),
        ("host.example", {"port": 2222}),
        ("[*.example]:2222", {"port": 2222}),
        ("[HOST.example]:*", {"port": 2222}),
        ("alias", {"host_key_alias": "alias", "port": 2222}),
    ],
)
def test_a_line_that_means_the_host(path: Path, names: str, settings: dict[str, object]) -> None:
    """A key is known by name, pattern, port, or alias, in any case of letters."""
    known(path, f"{names} {text(ED)} comment", **settings).check(ED, blob(ED))


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        ("host", {}),
        ("host.example.org", {}),
        ("*.example,!host.example", {}),
        ("!host.example,*", {}),
        ("!other", {}),
        ("h[o]st.example", {}),
        ("host.exampl[e]", {}),
        ("[host.example]:22", {}),
        ("[host.example]:2222", {"port": 2223}),
        ("host.example", {"host_key_alias": "alias"}),
        ("[alias]:2222", {"host_key_alias": "alias", "port": 2222}),
        ("|1|AAAA|BBBB", {}),
        ("|2|AAAA|BBBB", {}),
        ("|1|", {}),
    ],
)
def test_a_line_that_does_not(path: Path, names: str, settings: dict[str, object]) -> None:
    """What a line excludes, or only looks as if it matched, is not known."""
    with pytest.raises(SshError) as caught:
        known(path, f"{names} {text(ED)}", **settings).check(ED, blob(ED))
    assert caught.value.kind == "unknown-host-key"


def test_hashed_lines(path: Path) -> None:
    """Lines that ssh-keygen has hashed are found by the names that they had."""
    path.write_text(f"host.example {text(ED)}\n[host.example]:2222 {text(ED, 'x')}\n")
    # Only real keys are hashed.
    key = path.with_name("key")
    new_key(key)
    public = Path(f"{key}.pub").read_text().split()
    path.write_text(f"host.example {public[0]} {public[1]}\n[host.example]:2222 {text(EC)}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", path], check=True, capture_output=True)
    lines = path.read_text().splitlines()
    assert "host.example" not in path.read_text()
    known(path, *lines).check(ED, base64.b64decode(public[1]))
    with pytest.raises(SshError, match="not known"):
        known(path, *lines, port=2223, hostname="other").check(ED, base64.b64decode(public[1]))


def test_broken_lines_cost_themselves(path: Path) -> None:
    """Comments, unknown markers and nonsense are skipped, and what follows holds."""
    known(
        path,
        "",
        "# host.example",
        "host.example",
        f"host.example {ED}",
        f"host.example {ED} not-base64",
        f"host.example {ED} AAAA",
        f"@unknown host.example {text(ED, 'other')}",
        "\x00\xff|1|",
        f"@cert-authority host.example {text(ED, 'authority')}",
        f"  host.example\t{text(ED)}",
    ).check(ED, blob(ED))


def test_files_that_are_missing(path: Path, tmp_path: Path) -> None:
    """Of several files those that exist count; a directory in place of one is skipped."""
    known(path, f"host.example {text(ED)}", known_hosts=[
        "/nowhere", str(tmp_path), str(path)
    ]).check(ED, blob(ED))  # fmt: skip


def test_known_kinds_are_asked_for_first(path: Path) -> None:
    """The algorithms for keys that are known come first, so that the server proves one of those."""
    assert known(path, f"host.example {text(RSA)}").order(ALGORITHMS) == (
        "rsa-sha2-512",
        "rsa-sha2-256",
        ED,
        EC,
    )
    assert known(path, f"host.example {text(EC)}", port=2222).order(ALGORITHMS)[0] == EC
    assert known(path).order(ALGORITHMS) == ALGORITHMS


def test_a_changed_key_names_all(path: Path) -> None:
    """The error for a changed key names file and line, both fingerprints and the command."""
    hosts = known(path, "# a line", f"[host.example]:2222 {text(ED, 'old')}", port=2222)
    with pytest.raises(SshError) as caught:
        hosts.check(ED, blob(ED, "new"), ALGORITHMS)
    error = caught.value
    assert error.kind == "changed-host-key"
    assert f"line 2 of {path}" in error.cause
    assert fingerprint(blob(ED, "old")) in error.cause
    assert fingerprint(blob(ED, "new")) in error.cause
    assert f"ssh-keygen -R '[host.example]:2222' -f {path}" in error.advice


def test_a_key_of_another_kind_than_is_known(path: Path) -> None:
    """A server that has the known key no more, though it was asked for it first, has changed."""
    hosts = known(path, f"host.example {text(RSA)}")
    with pytest.raises(SshError) as caught:
        hosts.check(ED, blob(ED), ALGORITHMS)
    assert caught.value.kind == "changed-host-key"


def test_a_kind_that_cannot_be_asked_for(path: Path) -> None:
    """A known key of a kind that was not asked for says nothing about another kind."""
    hosts = known(path, f"host.example {text('ssh-dss')}")
    with pytest.raises(SshError) as caught:
        hosts.check(ED, blob(ED), ALGORITHMS)
    assert caught.value.kind == "unknown-host-key"


def test_several_keys_of_one_kind(path: Path) -> None:
    """Any of several keys of a host is good."""
    hosts = known(path, f"host.example {text(ED, 'a')}", f"host.example {text(ED, 'b')}")
    hosts.check(ED, blob(ED, "b"), ALGORITHMS)


@pytest.mark.parametrize("names", ["host.example", "*"])
def test_a_revoked_key(path: Path, names: str) -> None:
    """A key that a line revokes is refused, also where another line knows it."""
    hosts = known(path, f"host.example {text(ED)}", f"@revoked {names} {text(ED)}")
    with pytest.raises(SshError) as caught:
        hosts.check(ED, blob(ED), ALGORITHMS)
    assert caught.value.kind == "revoked-host-key"
    assert f"line 2 of {path}" in caught.value.cause


def test_a_file_of_revoked_keys(path: Path, tmp_path: Path) -> None:
    """Keys in RevokedHostKeys are refused, and so is everything when that cannot be read."""
    revoked = tmp_path / "revoked"
    revoked.write_text(f"{text(ED)} comment\n")
    line = f"host.example {text(ED)}"
    with pytest.raises(SshError) as caught:
        known(path, line, revoked_host_keys=str(revoked)).check(ED, blob(ED), ALGORITHMS)
    assert caught.value.kind == "revoked-host-key"
    for content in [None, b"SSHKRL\n\0"]:
        revoked.unlink()
        if content is not None:
            revoked.write_bytes(content)
        else:
            with pytest.raises(SshError) as caught:
                known(path, line, revoked_host_keys=str(revoked))
            assert caught.value.kind == "config"
            revoked.touch()
    with pytest.raises(SshError, match="binary"):
        known(path, line, revoked_host_keys=str(revoked))


@pytest.mark.parametrize("before", ["", "# no end of line", "# end of line\n", None])
def test_the_command_accepts_exactly_that_key(
    tmp_path: Path, path: Path, before: str | None
) -> None:
    """Running the command of the error makes the key known, whatever the file had before."""
    path = tmp_path / "it's a folder" / "known $hosts"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
    hop = Hop("h", "h.example", 2222, "u", known_hosts=(str(path),), accept_file=str(path))
    with pytest.raises(SshError) as caught:
        KnownHosts(hop).check(ED, blob(ED), ALGORITHMS)
    assert fingerprint(blob(ED)) in caught.value.cause
    command = caught.value.advice.split("`")[1]
    subprocess.run(command, shell=True, check=True)
    KnownHosts(hop).check(ED, blob(ED), ALGORITHMS)
    with pytest.raises(SshError):
        KnownHosts(hop).check(ED, blob(ED, "other"), ALGORITHMS)
    assert path.read_text().startswith(before or "")
    assert path.read_text().count("h.example") == 1


def test_a_certificate_authority_is_told_to_be_no_use(path: Path) -> None:
    """A host that is known by who signs its certificates is unknown here, and the error says why."""
    with pytest.raises(SshError, match=f"certificates of hosts, as line 1 of {path}"):
        known(path, f"@cert-authority *.example {text(ED)}").check(ED, blob(ED), ALGORITHMS)


def test_no_file_to_accept_in(path: Path) -> None:
    """Where no file may be written to, the advice says how to name one."""
    with pytest.raises(SshError) as caught:
        known(path, accept_file="").check(ED, blob(ED), ALGORITHMS)
    assert "UserKnownHostsFile" in caught.value.advice


def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    """A fingerprint is what ``ssh-keygen -l`` shows."""
    key = tmp_path / "key"
    new_key(key, "", "rsa")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True)
    public = base64.b64decode(Path(f"{key}.pub").read_text().split()[1])
    assert fingerprint(public) in shown.stdout.decode()


@given(st.text())
def test_any_line_is_read_or_skipped(content: str) -> None:
    """No text makes reading a line fail."""
    line = parse_line(content)
    assert line is None or isinstance(line, Line)


@given(st.text("ab*?!,.[]|1:", max_size=30), st.text("ab.[]:1", max_size=30))
def test_any_pattern_can_be_compared(patterns: str, name: str) -> None:
    """No pattern makes comparing fail, and a name matches itself when it is no pattern."""
    names_match(patterns, name)
    if name and not set(name) & set("*?!,|"):
        assert names_match(name, name)


def test_many_stars_take_no_time() -> None:
    """A pattern that was made to take for ever does not."""
    assert not names_match("*a" * 12 + "b", "a" * 60)
    assert not names_match("*" * 2000 + "b", "a" * 200)
    assert names_match("*a" * 12 + "*", "a" * 60)
