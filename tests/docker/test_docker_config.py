"""``docker_kernels.toml``: read with every mistake told where it is; a launch may only narrow it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import KernelProblem, LaunchError
from kernel_mgmt_docker.config import DockerKernel, Mount, config_files, memory_bytes, read_config
from kernel_mgmt_docker.users import parse_user


def write(directory: Path, text: str) -> Path:
    """Write a configuration."""
    directory.mkdir(exist_ok=True)
    path = directory / "docker_kernels.toml"
    path.write_text(text)
    return path


# --- reading -----------------------------------------------------------------------------------------


def test_a_whole_table_is_read(tmp_path: Path) -> None:
    """Each key has its place, and sources of mounts become absolute."""
    path = write(
        tmp_path,
        """
        [kernels.gpu]
        image = "example.org/gpu:1"
        argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        language = "python"
        display_name = "GPU"
        cwd = "/work"
        mounts = [{ source = "~/data", target = "/data" },
                  { source = "out", target = "/out", read_only = false }]
        env = { A = "b" }
        user = 1000
        memory = "512m"
        cpus = 2
        pids = 100
        gpus = "all"
        network = "bridge"
        read_only = false
        pull = "never"
        connect = "tcp"
        interrupt_mode = "message"
        allow = ["cpus", "mounts"]
        lease = 0
        """,
    )
    (kernel,) = read_config([path])
    assert kernel == DockerKernel(
        "gpu",
        "example.org/gpu:1",
        ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        display_name="GPU",
        cwd="/work",
        mounts=(
            Mount(str(Path.home() / "data"), "/data"),
            Mount(str(tmp_path / "out"), "/out", read_only=False),
        ),
        env={"A": "b"},
        user="1000",
        memory="512m",
        cpus=2.0,
        pids=100,
        gpus="all",
        network="bridge",
        read_only=False,
        pull="never",
        connect="tcp",
        interrupt_mode="message",
        allow=("cpus", "mounts"),
        lease=0.0,
    )
    kernel_type = kernel.kernel_type()
    assert (kernel_type.name, kernel_type.display_name) == ("gpu", "GPU")
    assert kernel_type.interrupt_mode == "message"
    assert DockerKernel.from_dict(kernel_type.metadata["docker"]) == kernel


def test_an_image_is_enough_and_all_else_is_closed(tmp_path: Path) -> None:
    """What is not said gives no rights."""
    (kernel,) = read_config([write(tmp_path, '[kernels.x]\nimage = "x"\n')])
    assert kernel == DockerKernel("x", "x")
    assert kernel.network == "none"
    assert kernel.read_only
    assert kernel.memory
    assert kernel.cpus
    assert kernel.pids
    assert not kernel.allow
    assert kernel.to_dict() == {"name": "x", "image": "x"}


def test_variables_are_in_no_repr() -> None:
    """Tokens are found in such places."""
    assert "token" not in repr(DockerKernel("x", "x", env={"X": "token"}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memry = '1g'", "'memry' is not known; it can be image"),
        ("memory = 1.5", "memory must be an amount"),
        ("memory = '1 gig'", "memory must be an amount"),
        ("cpus = '2'", "cpus must be a number"),
        ("cpus = nan", "cpus must be a number"),
        ("cpus = -1", "cpus must be a number"),
        ("cpus = 1e-10", "cpus must be a number from 0.001"),
        (f"cpus = 1{'0' * 400}", "cpus must be a number"),
        (f"lease = 1{'0' * 400}", "lease must be a number of seconds"),
        ("memory = '0.5b'", "memory must be an amount"),
        (f"memory = '{'9' * 400}g'", "memory must be an amount"),
        ("memory = '20000000t'", "memory must be an amount"),
        ("pids = 1.5", "pids must be a whole number"),
        ("pids = true", "pids must be a whole number"),
        ("read_only = 'yes'", "read_only must be true or false"),
        ("pull = 'sometimes'", "'missing' or 'always' or 'never'"),
        ("connect = 'ssh'", "'auto' or 'ipc' or 'tcp' or 'relay'"),
        ("connect = []", "'auto' or 'ipc' or 'tcp' or 'relay'"),
        ("cwd = 'work'", "cwd must be an absolute path"),
        ("user = 'a b'", "user must be"),
        ("user = '--privileged'", "user must be"),
        ("gpus = 'a b'", "gpus must be"),
        ("env = { A = 1 }", "env must be a table of strings"),
        ("env = { 'A=B' = '' }", "variable 'A=B'"),
        ("argv = 'python'", "argv must be a list of strings"),
        ("argv = ['python', 1]", "argv must be a list of strings"),
        ("argv = ['python']", "argv must name {connection_file}"),
        ("image = '-x'", "image must be one word"),
        ("mounts = { source = '/a' }", "mounts must be a list of tables"),
        ("mounts = ['/a:/b']", "mounts must be a list of tables"),
        ("mounts = [{ source = '/a' }]", "each has a source and a target"),
        ("mounts = [{ source = '/a', target = 'b' }]", "target must be an absolute path"),
        ("mounts = [{ source = '/a', target = '/' }]", "not '/'"),
        ("mounts = [{ source = '/a', target = '/b', ro = true }]", "'ro' is not known"),
        ("mounts = [{ source = '/a', target = '/b', read_only = 1 }]", "read_only must be"),
        (
            "mounts = [{ source = '/a', target = '/b' }, { source = '/c', target = '/b/' }]",
            "two with the target '/b'",
        ),
        ("allow = 'cpus'", "allow must be a list"),
        ("allow = ['allow']", "no key that a launch could set"),
        ("privileged = true", "'privileged' is refused: a privileged container has all rights"),
        ("pid_mode = 'host'", "'pid_mode' is refused: a kernel that shares a namespace"),
        ("ipc = 'host'", "'ipc' is refused"),
        ("cap_add = ['SYS_ADMIN']", "'cap_add' is refused"),
        ("security_opt = ['seccomp=unconfined']", "'security_opt' is refused"),
        ("devices = ['/dev/sda']", "'devices' is refused"),
        ("network = 'host'", "network = 'host' is refused: it gives the kernel the network"),
        ("network = 'container:x'", "is refused"),
    ],
)
def test_a_mistake_is_told_where_it_is(tmp_path: Path, text: str, words: str) -> None:
    """A wrong table is named with file and line, and costs itself alone."""
    first = "" if text.startswith("image") else 'image = "x"\n'
    good = '[kernels.good]\nimage = "x"\n'
    path = write(tmp_path, f"# kernels\n[kernels.bad]\n{first}{text}\n\n{good}")
    problem, kernel = read_config([path])
    assert isinstance(problem, KernelProblem)
    assert problem.name == "bad"
    line = 4 if first else 3
    assert problem.message.startswith(f"{str(path)!r}, line {line}: "), problem.message
    assert words in problem.message
    assert kernel == DockerKernel("good", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kernels.x]\n", ", line 1: image is missing."),
        ("[kernels]\nx = 1\n", ", line 2: x must be a table"),
        ("kernels = 1\n", ", line 1: kernels must be tables"),
        ("\n[kernel.x]\n", ", line 2: 'kernel' is not known"),
        ("[kernels.'a b']\nimage = 'x'\n", ", line 1: the name 'a b' must be"),
        ("[kernels.x\n", "is no TOML: "),
        ("\udcff", "is no TOML: "),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    """What is no table is named with its line, too."""
    path = tmp_path / "docker_kernels.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    (problem,) = read_config([path])
    assert isinstance(problem, KernelProblem)
    assert words in problem.message


def test_the_first_file_counts(tmp_path: Path) -> None:
    """Of one name that of the first file is taken, even when it is wrong there."""
    first = write(tmp_path / "a", "[kernels.x]\nimage = 1\n[kernels.y]\nimage = 'first'\n")
    second = write(tmp_path / "b", "[kernels.x]\nimage = 'x'\n[kernels.y]\nimage = 'second'\n")
    problem, kernel = read_config([first, second, tmp_path / "c" / "none.toml"])
    assert isinstance(problem, KernelProblem)
    assert isinstance(kernel, DockerKernel)
    assert kernel.image == "first"


def test_nothing_is_read_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative entry of Jupyter's path is left out."""
    write(tmp_path, '[kernels.x]\nimage = "x"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", f".:{tmp_path / 'other'}")
    assert read_config() == []
    assert config_files()[0].parent == tmp_path / "other" or all(
        file.is_absolute() for file in config_files()
    )


# Of few characters: a table of all of them takes long to make.
_TEXT = st.text("ax/=:.,{}\0\n ", max_size=5)


@given(
    st.dictionaries(
        st.sampled_from(["image", "mounts", "cpus", "user", "allow", "argv", "env", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_whatever_a_table_holds_is_read_or_told(table: dict[str, Any]) -> None:
    """Nothing but a LaunchError comes of it."""
    with contextlib.suppress(LaunchError):
        kernel = DockerKernel.from_dict({"name": "x", **table})
        assert DockerKernel.from_dict(kernel.to_dict()) == kernel


@pytest.mark.parametrize(
    ("text", "bytes_"), [("0", 0), ("100", 100), ("1k", 1024), ("1.5G", 3 * 2**29), ("2m", 2**21)]
)
def test_amounts_of_memory(text: str, bytes_: int) -> None:
    """They are those of docker run."""
    assert memory_bytes(text) == bytes_


# --- narrowing ---------------------------------------------------------------------------------------

_BASE = DockerKernel(
    "x",
    "x",
    memory="1g",
    cpus=2.0,
    pids=100,
    gpus="2",
    network="bridge",
    read_only=False,
    mounts=(Mount("/a", "/a", read_only=False), Mount("/b", "/b")),
    lease=3600,
)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"memory": "512m"},
        {"memory": 1000000},
        {"cpus": 1, "pids": 100},
        {"gpus": ""},
        {"gpus": 1},
        {"network": "none"},
        {"read_only": True},
        {"pull": "never"},
        {"cwd": "/a", "display_name": "y", "connect": "relay", "interrupt_mode": "message"},
        {"mounts": []},
        {"mounts": [{"source": "/a", "target": "/a", "read_only": True}]},
        {"mounts": [{"source": "/b", "target": "/b"}]},
        {"lease": 60},
    ],
)
def test_a_launch_may_take_rights_away(params: dict[str, Any]) -> None:
    """Less of anything is granted without being named."""
    narrowed = _BASE.narrowed(params)
    assert narrowed.name == "x"
    assert (narrowed == _BASE) == (not params)


@pytest.mark.parametrize(
    "params",
    [
        {"memory": "2g"},
        {"memory": "0"},
        {"cpus": 3},
        {"cpus": 0},
        {"memory": 0},
        {"pids": 101},
        {"gpus": "all"},
        {"gpus": 3},
        {"network": "other"},
        {"mounts": [{"source": "/b", "target": "/b", "read_only": False}]},
        {"mounts": [{"source": "/a/..", "target": "/a"}]},
        {"mounts": [{"source": "/a", "target": "/etc"}]},
        {"user": "root"},
        {"image": "y"},
        {"argv": ["sh", "{connection_file}"]},
        {"env": {"A": "b"}},
        {"pull": "always"},
        {"lease": 0},
        {"allow": ["image"]},
    ],
)
def test_a_launch_may_not_add_rights_unless_it_is_let(params: dict[str, Any]) -> None:
    """More of anything needs the file's ``allow``, which no launch can set."""
    (key,) = params
    with pytest.raises(LaunchError, match=f"may not set {key}: ") as caught:
        _BASE.narrowed(params)
    assert caught.value.phase == "resolve"
    assert repr(key) in caught.value.advice
    if key != "allow":
        assert replace(_BASE, allow=(key,)).narrowed(params) != _BASE


@pytest.mark.parametrize(
    "params",
    [
        {"memry": 1},
        {"cpus": "1"},
        {"cpus": 1e-10},
        {"memory": 10**5000},
        {"privileged": True},
        {"network": "host"},
    ],
)
def test_what_no_configuration_has_no_launch_has(params: dict[str, Any]) -> None:
    """A parameter is checked as the file is, whatever is allowed."""
    with pytest.raises(LaunchError, match=r"launch_params: .*(not known|number|amount|refused)"):
        replace(_BASE, allow=("network", "cpus")).narrowed(params)


@pytest.mark.parametrize("gpus", ["1", 1, "0", "3,1", "GPU-1"])
def test_a_number_of_gpus_is_none_of_those_that_were_named(gpus: str | int) -> None:
    """The engine would choose that many of all that there are."""
    with pytest.raises(LaunchError, match="may not set gpus: "):
        replace(_BASE, gpus="1,2").narrowed({"gpus": gpus})
    assert replace(_BASE, gpus="1,2,3").narrowed({"gpus": "3,1"}).gpus == "3,1"


# --- users -------------------------------------------------------------------------------------------

_PASSWD = "root:x:0:0:root:/root:/bin/sh\njo:x:1000:100:Jo:/home/jo:/bin/sh\nbad\n"
_GROUP = "root:x:0:\nusers:x:100:\ndata:x:2000:jo\n"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("jo", (1000, 100)),
        ("1000", (1000, 100)),
        ("1001", (1001, 0)),
        ("jo:data", (1000, 2000)),
        ("1001:7", (1001, 7)),
        ("10001:10001", (10001, 10001)),
        ("nobody", None),
        ("jo:none", None),
        ("root", (0, 0)),
    ],
)
def test_users_are_those_of_the_image(user: str, ids: tuple[int, int] | None) -> None:
    """Names and numbers mean what the engine takes them for."""
    assert parse_user(user, _PASSWD, _GROUP) == ids
