"""``ssh_kernels.toml``: read with every mistake told where it is, and written without losing anything."""

from __future__ import annotations

import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mgmt import KernelProblem
from kernel_mgmt_ssh.config import SshKernel, add_kernels, config_files, read_config
from kernel_mgmt_ssh.errors import SshError

COMMAND = '["python", "-f", "{connection_file}"]'


def write(directory: Path, text: str, name: str = "ssh_kernels.toml") -> Path:
    """Write a configuration."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


def problem_of(path: Path) -> str:
    """Give the message of the one problem that a file has."""
    (problem,) = read_config([path])
    assert isinstance(problem, KernelProblem)
    return problem.message


# --- reading -----------------------------------------------------------------------------------------


def test_a_whole_table_is_read(tmp_path: Path) -> None:
    """Each key has its place, and paths of this machine become absolute."""
    path = write(
        tmp_path,
        """
        [kernels.gpu]
        host = "me@gpu1"
        argv = ["~/env/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        cwd = "~/work"
        env = { PATH = "/opt/bin:${PATH}" }
        language = "python"
        display_name = "GPU"
        python = "/usr/bin/python3"
        ssh_config = "config"
        identity_file = "~/key"
        interrupt_mode = "message"
        transport = "tcp"
        lease = 0
        """,
    )
    (kernel,) = read_config([path])
    assert kernel == SshKernel(
        "gpu",
        "me@gpu1",
        ("~/env/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        cwd="~/work",
        env={"PATH": "/opt/bin:${PATH}"},
        language="python",
        display_name="GPU",
        python="/usr/bin/python3",
        ssh_config=str(tmp_path / "config"),
        identity_file=str(Path.home() / "key"),
        interrupt_mode="message",
        transport="tcp",
        lease=0.0,
    )
    kernel_type = kernel.kernel_type()
    assert (kernel_type.name, kernel_type.display_name) == ("gpu", "GPU")
    assert kernel_type.interrupt_mode == "message"
    assert SshKernel.from_dict(kernel_type.metadata["ssh"]) == kernel


def test_defaults_are_good(tmp_path: Path) -> None:
    """Host and kernelspec are enough."""
    (kernel,) = read_config([write(tmp_path, '[kernels.r]\nhost = "h"\nkernelspec = "ir"\n')])
    assert kernel == SshKernel("r", "h", kernelspec="ir")
    assert kernel.lease == 86400
    assert kernel.kernel_type().display_name == "r on h"


def test_variables_are_in_no_repr() -> None:
    """Tokens are found in such places."""
    assert "token" not in repr(SshKernel("r", "h", kernelspec="ir", env={"X": "token"}))


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (['host = "h"'], 2, "argv or kernelspec"),
        (['host = "h"', f"argv = {COMMAND}", 'kernelspec = "r"'], 5, "not both"),
        ([f"argv = {COMMAND}"], 2, "host is missing"),
        ([f"argv = {COMMAND}", "host = 1"], 4, "host must be a string"),
        ([f"argv = {COMMAND}", 'host = "-oProxyCommand=x"'], 4, "host must be the name"),
        ([f"argv = {COMMAND}", 'host = "a b"'], 4, "host must be the name"),
        (['host = "h"', "argv = []"], 4, "argv must be a list of strings"),
        (['host = "h"', 'argv = "python"'], 4, "argv must be a list of strings"),
        (['host = "h"', 'argv = ["x", 1]'], 4, "argv must be a list of strings"),
        (['host = "h"', 'kernelspec = "r"', "env = { A = 1 }"], 5, "env must be a table"),
        (['host = "h"', 'kernelspec = "r"', 'env = { "A=B" = "" }'], 5, "variable 'A=B'"),
        (['host = "h"', 'kernelspec = "r"', "lease = -1"], 5, "lease must be a number"),
        (['host = "h"', 'kernelspec = "r"', "lease = nan"], 5, "lease must be a number"),
        (['host = "h"', 'kernelspec = "r"', "lease = true"], 5, "lease must be a number"),
        (['host = "h"', 'kernelspec = "r"', 'transport = "x"'], 5, "'ipc' or 'tcp'"),
        (['host = "h"', 'kernelspec = "r"', "transport = []"], 5, "'ipc' or 'tcp'"),
        (['host = "h"', 'kernelspec = "r"', "hots = 1"], 5, "'hots' is not known"),
        (['host = "h"', 'kernelspec = "r"', "[kernels.a.hots]"], 5, "'hots' is not known"),
    ],
)
def test_a_mistake_is_told_where_it_is(
    tmp_path: Path, lines: list[str], line: int, words: str
) -> None:
    """A wrong table is named with file and line, and costs itself alone."""
    text = "\n".join(["# ours", "[kernels.a]", *lines, "[kernels.b]", 'host = "h"'])
    path = write(tmp_path, text + '\nkernelspec = "r"\n')
    problem, good = read_config([path])
    assert isinstance(problem, KernelProblem)
    assert isinstance(good, SshKernel)
    assert (problem.name, good.name) == ("a", "b")
    assert f"{str(path)!r}, line {line}: " in problem.message
    assert words in problem.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kernels = 1\n", "line 1: kernels must be tables"),
        ("[kernels]\na = 1\n", "line 2: a must be a table"),
        ("\n[kernel.a]\n", "line 2: 'kernel' is not known"),
        ("[kernels.a\n", "line 1"),
        ('[kernels."a b"]\n', "line 1: the name 'a b'"),
        ("[kernels.a]\nhost='h'\nhost='h'\n", "line 3"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str, words: str) -> None:
    """What is no table of a kernel is a problem with its line."""
    message = problem_of(write(tmp_path, text))
    assert words in message
    assert "ssh_kernels.toml" in message


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and a directory in a file's place, are problems."""
    path = tmp_path / "ssh_kernels.toml"
    path.write_bytes(b"\xff")
    assert "is no TOML" in problem_of(path)
    assert "cannot be read" in problem_of(tmp_path)
    assert read_config([tmp_path / "no-such-file", path / "below"]) == []


def test_the_first_file_counts(tmp_path: Path) -> None:
    """Of one name the first file's is taken, also when that is wrong."""
    first = write(
        tmp_path / "1", "[kernels.a]\nhost = 'one'\n[kernels.b]\nhost = 'one'\nkernelspec = 'r'\n"
    )
    second = write(
        tmp_path / "2",
        "".join(f"[kernels.{name}]\nhost = 'two'\nkernelspec = 'r'\n" for name in "abc"),
    )
    found = read_config([first, second])
    assert [item.name for item in found] == ["a", "b", "c"]
    assert isinstance(found[0], KernelProblem)
    assert [item.host for item in found if isinstance(item, SshKernel)] == ["one", "two"]


def test_the_current_directory_is_never_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of JUPYTER_CONFIG_PATH that is not absolute is left out."""
    write(tmp_path, '[kernels.a]\nhost = "h"\nkernelspec = "r"\n')
    there = tmp_path / "there"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", f":.:{there}")
    files = config_files()
    assert there / "ssh_kernels.toml" in files
    assert all(file.is_absolute() and file.parent != tmp_path for file in files)
    assert read_config() == []


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """Whatever a file holds, it gives kernels and problems."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "ssh_kernels.toml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert isinstance(read_config([path]), list)


# --- writing -----------------------------------------------------------------------------------------


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    """Kernels are added behind what is there, comments and all, and the file is private."""
    text = "# mine\n[kernels.a]  # the first\nhost = 'h'\nkernelspec = 'r'"
    path = write(tmp_path, text)
    path.chmod(0o644)
    new = [
        SshKernel("b", "h", ("p",), env={"A B": 'q"\\', "C": ""}),
        SshKernel("c.d", "h", kernelspec="x", lease=0.0, transport="tcp"),
    ]
    assert add_kernels(new, path) == path
    assert path.read_text().startswith(text + "\n")
    assert read_config([path])[1:] == new
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_users_own_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the file is in Jupyter's configuration directory, which need not be there."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "new"))
    kernel = SshKernel("b", "h", kernelspec="x")
    assert add_kernels([kernel]) == tmp_path / "new" / "ssh_kernels.toml"
    assert read_config() == [kernel]


def test_a_link_stays_one(tmp_path: Path) -> None:
    """A file that is kept elsewhere and linked is changed there."""
    real = write(tmp_path / "dotfiles", "", "kernels")
    link = tmp_path / "ssh_kernels.toml"
    link.symlink_to(real)
    add_kernels([SshKernel("b", "h", kernelspec="x")], link)
    assert link.is_symlink()
    assert "b" in tomllib.loads(real.read_text())["kernels"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kernels.b]\n", "has b already"),
        ("[kernels.b", "is no TOML"),
        ("kernels = { a = { host = 'h' } }\n", "Nothing can be added"),
    ],
)
def test_what_cannot_be_added_to_stays_as_it_is(tmp_path: Path, text: str, words: str) -> None:
    """A taken name, or a file that tables cannot be added to, is refused, and nothing is written."""
    path = write(tmp_path, text)
    with pytest.raises(SshError, match=words) as caught:
        add_kernels([SshKernel("b", "h", kernelspec="x")], path)
    assert caught.value.kind == "config"
    assert path.read_text() == text


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    """Two kernels of one name cannot be added."""
    kernel = SshKernel("b", "h", kernelspec="x")
    with pytest.raises(SshError, match="has b already"):
        add_kernels([kernel, kernel], tmp_path / "ssh_kernels.toml")


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    """A path below a file can be no file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SshError, match=r"cannot be (read|written)"):
        add_kernels([SshKernel("b", "h", kernelspec="x")], tmp_path / "file" / "x.toml")


LETTERS = st.characters(exclude_characters="\0", exclude_categories=("Cs",))
LINES = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=("Cs",))
)
NAMES = st.text("abcXYZ019._-", min_size=1, max_size=20)
KERNELS = st.builds(
    SshKernel,
    name=NAMES,
    host=st.text("abc019.-@", min_size=1).filter(lambda host: host[0] != "-"),
    argv=st.lists(st.text(LETTERS, min_size=1), min_size=1).map(tuple),
    env=st.dictionaries(
        st.text(LETTERS, min_size=1).filter(lambda key: "=" not in key), st.text(LETTERS)
    ),
    cwd=LINES,
    language=LINES,
    display_name=LINES,
    interrupt_mode=st.sampled_from(["signal", "message"]),
    transport=st.sampled_from(["ipc", "tcp"]),
    lease=st.floats(0, 1e9) | st.just(86400.0),
)


@settings(max_examples=40)  # each writes a file, to the disk
@given(st.lists(KERNELS, max_size=3, unique_by=lambda kernel: kernel.name))
def test_any_kernel_survives_a_file(kernels: list[SshKernel]) -> None:
    """Whatever a kernel has is written and read as it was, and so by its JSON form."""
    with tempfile.TemporaryDirectory() as directory:
        path = add_kernels(kernels, Path(directory, "ssh_kernels.toml"))
        assert read_config([path]) == kernels
    assert [SshKernel.from_dict(kernel.to_dict()) for kernel in kernels] == kernels


@pytest.mark.parametrize("content", [{}, {"name": "a"}, {"name": "a", "host": "h", "x": 1}])
def test_what_is_no_kernel_is_refused(content: dict[str, Any]) -> None:
    """A JSON form that is none is an error of the configuration."""
    with pytest.raises(SshError) as caught:
        SshKernel.from_dict(content)
    assert caught.value.kind == "config"
