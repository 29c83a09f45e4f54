"""The way to a host, as the ssh client and as paramiko's parser see it."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt_ssh.errors import SshError
from kernel_mgmt_ssh.routes import Hop, Route, resolve

PROGRAMS = ["ssh", None]
both = pytest.mark.parametrize("program", PROGRAMS, ids=["client", "parser"])


def write(config: Path, text: str) -> Path:
    """Write a configuration."""
    config.write_text(text)
    return config


@both
def test_a_plain_name_is_its_own_route(config: Path, program: str | None) -> None:
    """A host that no file mentions is connected to under its own name, with ssh's defaults."""
    route = resolve("machine.example", ssh_config=write(config, ""), program=program)
    (hop,) = route.hops
    assert (hop.hostname, hop.port, hop.user) == ("machine.example", 22, getpass.getuser())
    assert hop.proxy_command == hop.host_key_alias == hop.identity_agent == ""
    assert hop.methods == ("publickey", "keyboard-interactive", "password")
    assert any(path.endswith("/.ssh/id_ed25519") for path in hop.identity_files)
    assert hop.known_hosts[0].endswith("/.ssh/known_hosts")
    assert hop.accept_file == hop.known_hosts[0]
    assert (hop.connect_timeout, hop.keepalive_interval) == (15, 5)


@both
@pytest.mark.parametrize(
    "written",
    [
        "someone@machine",
        "ssh://someone@machine",
        "ssh://someone@machine/",
        "ssh://someone@machine:22",
    ],
)
def test_a_user_before_the_name(config: Path, program: str | None, written: str) -> None:
    """The user of ``user@host`` and ``ssh://`` forms wins over that of the configuration."""
    write(config, "Host machine\n  User other\n")
    (hop,) = resolve(written, ssh_config=config, program=program).hops
    assert (hop.user, hop.hostname, hop.port) == ("someone", "machine", 22)


@both
def test_a_port_in_the_name(config: Path, program: str | None) -> None:
    """The port of an ``ssh://`` form wins over that of the configuration, IPv6 or not."""
    write(config, "Host *\n  Port 7\n")
    for written, host in [("ssh://a:2222", "a"), ("ssh://[::1]:2222", "::1")]:
        (hop,) = resolve(written, ssh_config=config, program=program).hops
        assert (hop.hostname, hop.port) == (host, 2222)


@both
def test_settings_of_a_host(config: Path, program: str | None) -> None:
    """Each setting that the connection needs is read, with its tokens and variables expanded."""
    write(
        config,
        """
        Host short
          HostName %h.example.org
          User someone
          Port 2200
          HostKeyAlias other
          IdentityFile ~/keys/%r@%h
          IdentityFile /keys/second
          CertificateFile /keys/second-cert.pub
          IdentitiesOnly yes
          IdentityAgent ~/agent
          UserKnownHostsFile /known/%h ~/known
          GlobalKnownHostsFile /dev/null
          RevokedHostKeys /revoked
          ProxyCommand nc -x %n %h %p # %%
          PreferredAuthentications password,gssapi-with-mic,publickey
          NumberOfPasswordPrompts 1
          ConnectTimeout 3
          ServerAliveInterval 40
          AddressFamily inet
          BatchMode yes
        Host *
          User nobody
          Port 1
        """,
    )
    (hop,) = resolve("short", ssh_config=config, program=program).hops
    home = os.path.expanduser("~")
    assert hop.alias == "short"
    assert (hop.hostname, hop.port, hop.user) == ("short.example.org", 2200, "someone")
    assert hop.host_key_alias == "other"
    assert hop.identity_files == (f"{home}/keys/someone@short.example.org", "/keys/second")
    assert hop.certificate_files == ("/keys/second-cert.pub",)
    assert hop.identities_only
    assert hop.identity_agent == f"{home}/agent"
    assert hop.known_hosts == ("/known/short.example.org", f"{home}/known", "/dev/null")
    assert hop.accept_file == "/known/short.example.org"
    assert hop.revoked_host_keys == "/revoked"
    assert hop.proxy_command.startswith("nc -x short short.example.org 2200")
    assert hop.methods == ("password", "publickey")
    assert (hop.password_prompts, hop.batch_mode, hop.address_family) == (1, True, "inet")
    assert (hop.connect_timeout, hop.keepalive_interval) == (3, 40)


def test_both_ways_agree(config: Path, tmp_path: Path) -> None:
    """Our use of paramiko finds the same routes as the ssh client, jumps and included files too."""
    (tmp_path / "more").write_text("Host inner\n  HostName 10.0.0.9\n  Port 23\n")
    write(
        config,
        f"""
        Include {tmp_path}/mor*
        Host inner
          ProxyJump jump
          User deep
        Host jump
          HostName jump.example
          ProxyJump someone@first:2201
        Match host first
          User ignored
        Host none-of-it
          ProxyJump none
        Host star !star-not
          ProxyJump jump,ssh://second:24
        Host *
          ServerAliveInterval 7
          IdentityFile /keys/%r
        """,
    )
    for host in ["inner", "jump", "first", "none-of-it", "star", "star-not", "else", "me@inner"]:
        client, parser = (resolve(host, ssh_config=config, program=each) for each in PROGRAMS)
        for hop in (*client.hops, *parser.hops):
            # Which algorithms there are by default, only the client says.
            object.__setattr__(hop, "host_key_algorithms", ())
        assert client.hops == parser.hops


@both
def test_jumps_in_their_order(config: Path, program: str | None) -> None:
    """The hops of a ProxyJump come first, with settings of their own, and the target last."""
    write(
        config,
        """
        Host target
          ProxyJump a@first:2201,second
          Port 2203
        Host first
          HostName first.example
          ProxyCommand corkscrew %h
        Host second
          User b
          ProxyJump never
        """,
    )
    route = resolve("target", ssh_config=config, program=program)
    assert [(hop.user, hop.hostname, hop.port) for hop in route.hops[:2]] == [
        ("a", "first.example", 2201),
        ("b", "second", 22),
    ]
    assert [hop.proxy_command for hop in route.hops] == ["corkscrew first.example", "", ""]
    assert route.name.endswith("@target:2203")
    assert "second" in route.key
    assert "first.example" in route.key


@both
def test_a_ring_of_jumps_ends(config: Path, program: str | None) -> None:
    """Hosts that are to be reached through one another are an error of the configuration."""
    write(config, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(SshError, match="ring") as caught:
        resolve("a", ssh_config=config, program=program)
    assert caught.value.kind == "config"


@both
def test_an_identity_file_goes_first(config: Path, program: str | None) -> None:
    """A key that is named for the host is tried before all others, and not at jump hosts."""
    write(config, "Host t\n  ProxyJump j\n  IdentityFile /other\nHost j\n  IdentityFile /j\n")
    jump, target = resolve(
        "t", ssh_config=config, identity_file=Path("/mine"), program=program
    ).hops
    assert target.identity_files == ("/mine", "/other")
    assert jump.identity_files == ("/j",)


@both
def test_relative_paths_are_of_here(
    config: Path, program: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are made absolute, as whoever connects may be in another directory."""
    write(config, "Host a\n  IdentityFile keys/own\n  UserKnownHostsFile known\n")
    monkeypatch.chdir(config.parent)
    (hop,) = resolve(
        "a", ssh_config=Path(config.name), identity_file=Path("mine"), program=program
    ).hops
    here = str(config.parent)
    assert hop.identity_files == (f"{here}/mine", f"{here}/keys/own")
    assert hop.accept_file == f"{here}/known"
    assert hop.ssh_config == str(config)


@both
@pytest.mark.parametrize(
    "written",
    [
        "-oProxyCommand=touch x",
        "-l",
        "user@-oProxyCommand=x",
        "-x@host",
        "a b",
        "a\nb",
        "a\tb",
        "a\0b",
        "a\x1bb",
        "",
        "@",
        "user@",
        "@host",
        "ssh://",
        "ssh://h:0",
        "ssh://h:65536",
        "ssh://h:x",
        "ssh://h:" + 5000 * "1",
        "`id`",
        "a;b",
        "$(id)",
        "'",
    ],
)
def test_what_is_no_name_is_refused(config: Path, program: str | None, written: str) -> None:
    """A name that an ssh client or a shell could take for something else never reaches them."""
    with pytest.raises(SshError) as caught:
        resolve(written, ssh_config=write(config, ""), program=program)
    assert caught.value.kind == "config"
    assert str(caught.value).endswith(".")


@both
def test_names_of_the_configuration_are_looked_at_too(config: Path, program: str | None) -> None:
    """A HostName that would be a shell's command is refused."""
    write(config, "Host a\n  HostName $(touch${IFS}x)\n  ProxyCommand nc %h %p\n")
    with pytest.raises(SshError) as caught:
        resolve("a", ssh_config=config, program=program)
    assert caught.value.kind == "config"


@both
def test_a_configuration_that_is_not_there(tmp_path: Path, program: str | None) -> None:
    """A file that was named and does not exist is an error that names it."""
    with pytest.raises(SshError, match="nowhere") as caught:
        resolve("a", ssh_config=tmp_path / "nowhere", program=program)
    assert caught.value.kind == "config"


def test_a_configuration_that_is_wrong(config: Path) -> None:
    """What the ssh client says about a wrong line is in the error."""
    write(config, "Host a\n  NoSuchSetting yes\n")
    with pytest.raises(SshError, match=r"ssh client cannot say.*line 2.*nosuchsetting\.") as caught:
        resolve("a", ssh_config=config)
    assert caught.value.kind == "config"
    assert "ssh -G" in caught.value.advice


def test_a_client_that_hangs_is_given_up(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `Match exec` that does not end is an error that names it."""
    monkeypatch.setattr("kernel_mgmt_ssh.ssh_config._PATIENCE", 0.3)
    write(config, 'Match exec "sleep 60"\n  User a\n')
    with pytest.raises(SshError, match="did not end") as caught:
        resolve("a", ssh_config=config)
    assert "Match exec" in caught.value.advice


def test_no_client_is_no_error(config: Path) -> None:
    """Where there is no ssh client, the parser is used."""
    write(config, "Host a\n  HostName b\n")
    assert resolve("a", ssh_config=config, program="no-such-ssh").hops[0].hostname == "b"


@both
def test_a_file_descriptor_from_a_proxy_is_refused(config: Path, program: str | None) -> None:
    """ProxyUseFdpass is told to be unsupported, instead of hanging."""
    write(config, "Host a\n  ProxyCommand x\n  ProxyUseFdpass yes\n")
    with pytest.raises(SshError, match="ProxyUseFdpass"):
        resolve("a", ssh_config=config, program=program)


@both
def test_agents_by_their_names(
    config: Path, program: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IdentityAgent may be none, SSH_AUTH_SOCK, a variable or a path."""
    monkeypatch.setenv("MY_AGENT", "/from/variable")
    for value, expected in [
        ("none", "none"),
        ("SSH_AUTH_SOCK", ""),
        ("$MY_AGENT", "/from/variable"),
        ("$NO_AGENT", "none"),
        ("${MY_AGENT}/x", "/from/variable/x"),
        ("/some/path", "/some/path"),
    ]:
        write(config, f"Host a\n  IdentityAgent {value}\n")
        (hop,) = resolve("a", ssh_config=config, program=program).hops
        assert hop.identity_agent == expected


@both
def test_known_hosts_with_a_space(config: Path, tmp_path: Path, program: str | None) -> None:
    """A quoted name of a file with a space in it stays one name."""
    file = tmp_path / "known hosts"
    file.touch()
    write(config, f'Host a\n  UserKnownHostsFile "{file}" /other\n')
    (hop,) = resolve("a", ssh_config=config, program=program).hops
    assert hop.known_hosts[:2] == (str(file), "/other")


@both
def test_no_known_hosts(config: Path, program: str | None) -> None:
    """A configuration without any file of host keys has none to write a key to."""
    write(config, "Host a\n  UserKnownHostsFile none\nHost b\n  UserKnownHostsFile /dev/null\n")
    for host in "ab":
        (hop,) = resolve(host, ssh_config=config, program=program).hops
        assert hop.accept_file == ""


def test_equal_routes_have_equal_keys(config: Path) -> None:
    """Routes share a connection when they differ in nothing, and only then."""
    write(config, "Host a b\n  HostName same\nHost c\n  HostName same\n  Port 23\n")

    def key(host: str, identity: Path | None = None) -> str:
        return resolve(host, ssh_config=config, identity_file=identity).key

    assert key("a") == key("b")
    assert key("a") != key("c")
    assert key("a") != key("a", Path("/key"))
    assert key("a").startswith(f"{getpass.getuser()}@same:22")


def test_local_host_names_are_expanded(config: Path) -> None:
    """The tokens of ssh_config(5) are those of this machine."""
    write(config, "Host a\n  IdentityFile /%L/%u/%i/%d\n")
    (hop,) = resolve("a", ssh_config=config).hops
    name = socket.gethostname().split(".")[0]
    assert hop.identity_files[0].startswith(f"/{name}/{getpass.getuser()}/{os.getuid()}/")


names = st.text("abc.-_", min_size=1)


@given(
    st.lists(
        st.builds(
            Hop,
            names,
            names,
            st.integers(1, 65535),
            names,
            identity_files=st.lists(st.text()).map(tuple),
            identities_only=st.booleans(),
            known_hosts=st.lists(st.text()).map(tuple),
            proxy_command=st.text(),
            connect_timeout=st.floats(0.1, 100),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_routes_cross_processes(hops: list[Hop]) -> None:
    """A route is the same after it was JSON."""
    route = Route.over(hops)
    assert Route.from_dict(json.loads(json.dumps(route.to_dict()))) == route


@given(st.text())
def test_any_text_is_a_route_or_an_error(text: str) -> None:
    """Whatever is given for a host, the answer is a route or an error of the configuration."""
    with contextlib.suppress(SshError):
        assert resolve(text, ssh_config=Path(os.devnull), program=None).hops[-1].hostname
