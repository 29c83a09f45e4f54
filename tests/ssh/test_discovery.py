"""What a host could run: found where people have it, each once, and bad ones told of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import RunningAgent, started
from kernel_mgmt_ssh.config import SshKernel

#: As ipykernel seems to a Python that looks for it.
PRETENDED = "raise SystemExit('not a real one')\n"


def make_environment(directory: Path, *, has_ipykernel: bool = True) -> Path:
    """Make a virtual environment that seems to have ipykernel."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(directory)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    if has_ipykernel:
        (packages,) = directory.glob("lib/python*/site-packages")
        (packages / "ipykernel").mkdir()
        (packages / "ipykernel" / "__init__.py").write_text(PRETENDED)
    return directory


def discover(home: Path, **environment: str) -> dict[str, Any]:
    """Ask an agent with a home directory of the test's."""
    unset = ("CONDA_PREFIX", "MAMBA_ROOT_PREFIX", "PYENV_ROOT", "WORKON_HOME", "XDG_DATA_HOME")
    env = {
        **dict.fromkeys(unset),
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "JUPYTER_DATA_DIR": str(home / "data"),
        **environment,
    }
    with RunningAgent(env=env) as agent:
        return agent.ask("discover")


def below(found: dict[str, Any], directory: Path) -> dict[str, dict[str, Any]]:
    """Give the kernels that are below a directory, by their origins and names."""
    kernels = found["kernels"]
    return {item["name"]: item for item in kernels if Path(item["path"]).is_relative_to(directory)}


def test_environments_of_all_kinds_are_found(tmp_path: Path) -> None:
    """Virtual, conda, pyenv and uv environments with ipykernel are found where they usually are."""
    real = make_environment(tmp_path / "elsewhere" / "made")
    python = (real / "bin" / "python").resolve()
    for place in ("project/.venv", ".virtualenvs/data", "miniconda3/envs/deep", "listed"):
        make_environment(tmp_path / place)
    for place in (".pyenv/versions/3.99.1", ".local/share/uv/python/cpython-3.98"):
        # What is there without being made by venv: its packages come from elsewhere.
        (tmp_path / place / "bin").mkdir(parents=True)
        script = tmp_path / place / "bin" / "python3"
        script.write_text(
            f"#!/bin/sh\nexec {real}/bin/python -c 'import sys; sys.prefix = sys.argv[1]; "
            f'exec(sys.argv[2])\' {tmp_path / place} "$2"\n'
        )
        script.chmod(0o755)
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda" / "environments.txt").write_text(f"{tmp_path}/listed\n/no/such\nx\n")
    found = below(discover(tmp_path), tmp_path)
    assert {name: item["origin"] for name, item in found.items()} == {
        "conda-deep": "conda",
        "conda-listed": "conda",
        "venv-project": "venv",
        "venv-data": "venv",
        "pyenv-3.99.1": "pyenv",
        "uv-cpython-3.98": "uv",
    }
    deep = found["conda-deep"]
    prefix = tmp_path / "miniconda3/envs/deep"
    assert deep["argv"] == [
        str(prefix / "bin" / "python3"),
        *("-m", "ipykernel_launcher", "-f", "{connection_file}"),
    ]
    assert deep["env"] == {"CONDA_PREFIX": str(prefix), "PATH": f"{prefix}/bin:${{PATH}}"}
    assert found["venv-project"]["env"]["VIRTUAL_ENV"] == str(tmp_path / "project/.venv")
    assert found["pyenv-3.99.1"]["env"] == {}
    assert python.exists()


def test_what_has_no_ipykernel_is_left_out(tmp_path: Path) -> None:
    """An environment without ipykernel is none of the kernels, and no problem."""
    make_environment(tmp_path / ".venv", has_ipykernel=False)
    found = discover(tmp_path)
    assert below(found, tmp_path) == {}
    assert not [problem for problem in found["problems"] if str(tmp_path) in problem]


def test_a_python_that_does_not_work_is_a_problem(tmp_path: Path) -> None:
    """A broken environment is told of, with why."""
    python = tmp_path / ".pyenv" / "versions" / "3.1" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    found = discover(tmp_path)
    assert (
        f"The Python {str(python)!r} is left out: it ended with exit code 3." in found["problems"]
    )


def test_an_environment_on_the_path_is_found_once(tmp_path: Path) -> None:
    """An environment that is found in several ways is one, and links to it are none."""
    environment = make_environment(tmp_path / ".venv")
    (tmp_path / ".virtualenvs").mkdir()
    (tmp_path / ".virtualenvs" / "link").symlink_to(environment)
    found = discover(tmp_path, PATH=f"{environment}/bin:/usr/bin:/bin")
    assert len(below(found, tmp_path)) == 1


def test_kernelspecs_are_found(tmp_path: Path) -> None:
    """The host's kernelspecs are found; one without its program, or a bad one, is a problem."""
    specs = tmp_path / "data" / "kernels"
    contents: dict[str, object] = {
        "Good": {"argv": ["/bin/sh", "{connection_file}"], "display_name": "Good", "language": "G"},
        "gone": {"argv": ["/no/such/kernel"]},
        "bad": {"argv": "x"},
    }
    for name, content in contents.items():
        (specs / name).mkdir(parents=True)
        (specs / name / "kernel.json").write_text(json.dumps(content))
    found = discover(tmp_path)
    (good,) = below(found, specs).values()
    assert good["name"] == good["kernelspec"] == "good"
    assert (good["language"], good["origin"]) == ("g", "kernelspec")
    assert good["transport"] == "tcp"
    problems = [problem for problem in found["problems"] if str(specs) in problem]
    assert len(problems) == 2
    assert any("/no/such/kernel" in problem for problem in problems)


def test_the_kernelspec_of_an_environment_takes_its_place(tmp_path: Path) -> None:
    """Where ipykernel has its kernelspec, as it installs it, the environment is no second kernel."""
    environment = make_environment(tmp_path / ".venv")
    spec = environment / "share" / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    content = {"argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (spec / "kernel.json").write_text(json.dumps(content))
    (kernel,) = below(discover(tmp_path), environment).values()
    assert kernel["kernelspec"] == "python3"
    assert kernel["python"] == str(environment / "bin" / "python3")


def test_names_are_distinct(tmp_path: Path) -> None:
    """Environments of one name have kernels of different names, with letters that names may have."""
    for place in ("My Project \N{SNOWMAN}/.venv", "My Project  /venv"):
        make_environment(tmp_path / place)
    names = sorted(below(discover(tmp_path), tmp_path))
    assert names == ["venv-my-project", "venv-my-project-2"]


def test_what_is_found_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that is found of this very environment starts as it is described."""
    pytest.importorskip("ipykernel")
    # Also where the environment is not activated.
    here = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    with RunningAgent() as agent:
        kernels = agent.ask("discover")["kernels"]
        prefix = os.path.realpath(sys.prefix)
        (found,) = [
            kernel for kernel in kernels if os.path.realpath(kernel["path"]).startswith(prefix)
        ]
        configured = SshKernel.from_dict(
            {"host": "h", **{key: found[key] for key in ("name", "kernelspec", "python")}}
        )
        with started(
            agent, None, kernelspec=configured.kernelspec, pythons=[configured.python]
        ) as result:
            assert result["kind"] == "nanny"
