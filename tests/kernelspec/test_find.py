"""Which kernelspecs are found, what is read from them, and what is said about bad ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import KernelFinder, NoSuchKernel
from kernel_mgmt_kernelspec import KernelSpec, KernelspecError, logos

ARGV = ["some-kernel", "{connection_file}"]


def found(finder: KernelFinder, below: Path) -> dict[str, KernelSpec]:
    """The kernelspecs below a directory by name; this machine may have others."""
    return {
        kernel_type.name: kernel_type
        for kernel_type in finder.find_kernels()
        if isinstance(kernel_type, KernelSpec)
        and kernel_type.resource_dir
        and below in kernel_type.resource_dir.parents
    }


def problem_of(finder: KernelFinder) -> str:
    """What is wrong, one line for each."""
    finder.find_kernels()
    return "\n".join(problem.message for problem in finder.problems)


def test_the_entry_point_makes_the_provider_known(write_spec: Any) -> None:
    """An installed provider is found as `spec`, and its kernelspecs as `spec/NAME`."""
    write_spec("mine", ARGV)
    assert KernelFinder.from_entrypoints().get("spec/mine").id == "spec/mine"


def test_all_fields_are_read(finder: KernelFinder, write_spec: Any) -> None:
    """A kernel type tells what its kernel.json says, and fields of the future are no trouble."""
    directory = write_spec(
        "ir",
        ARGV,
        display_name="R 4.5",
        language="R",
        interrupt_mode="message",
        kernel_protocol_version="5.5",
        env={"R_HOME": "/opt/R"},
        metadata={"supported_encryption": ["curve"]},
        from_the_future={"any": ["thing"]},
    )
    assert finder.get("spec/ir") == KernelSpec(
        name="ir",
        display_name="R 4.5",
        language="r",
        interrupt_mode="message",
        resource_dir=directory,
        metadata={"supported_encryption": ["curve"]},
        provider="spec",
        argv=tuple(ARGV),
        env={"R_HOME": "/opt/R"},
        kernel_protocol_version="5.5",
    )


def test_an_argv_alone_is_a_kernelspec(finder: KernelFinder, write_spec: Any) -> None:
    """What a kernel.json leaves out has Jupyter's defaults."""
    directory = write_spec("bare", ARGV)
    assert finder.get("spec/bare") == KernelSpec(
        name="bare",
        display_name="bare",
        interrupt_mode="signal",
        resource_dir=directory,
        provider="spec",
        argv=tuple(ARGV),
    )


def test_the_repr_shows_no_environment(write_spec: Any) -> None:
    """What a kernelspec puts into the environment may be a secret, and stays out of logs."""
    spec = KernelSpec.read(write_spec("secret", ARGV, env={"TOKEN": "hunter2"}))
    assert spec.env == {"TOKEN": "hunter2"}
    assert "hunter2" not in repr(spec)


def test_the_whole_search_path_is_read(
    finder: KernelFinder, write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each directory of JUPYTER_PATH counts, and of one name the first directory's kernelspec."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("JUPYTER_PATH", os.pathsep.join([str(first), str(second), str(first)]))
    write_spec("both", ARGV, first / "kernels", display_name="first")
    write_spec("Both", ARGV, second / "kernels", display_name="second")
    write_spec("other", ARGV, second / "kernels")
    kernel_types = found(finder, tmp_path)
    assert sorted(kernel_types) == ["both", "other"]
    assert kernel_types["both"].display_name == "first"
    assert finder.problems == []


def test_upper_and_lower_case_are_the_same(finder: KernelFinder, write_spec: Any) -> None:
    """A directory's name is lower-cased, and found in any case."""
    write_spec("MyKernel-1.0_x", ARGV)
    assert finder.get("spec/mykernel-1.0_x") is not None
    assert finder.get("spec/MYKERNEL-1.0_X").id == "spec/mykernel-1.0_x"


def test_names_that_differ_by_case_only_are_told(
    finder: KernelFinder, write_spec: Any, kernels: Path
) -> None:
    """Of two such directories beside each other one is offered, and the other is named."""
    write_spec("Twin", ARGV)
    if (kernels / "twin").exists():
        return  # this file system has no such trouble
    write_spec("twin", ARGV)
    assert list(found(finder, kernels)) == ["twin"]
    assert "'Twin' by case only" in problem_of(finder)


@pytest.mark.parametrize("name", ["has space", "naïve", "semi;colon", "braces{prefix}", "a\nb"])
def test_an_odd_name_is_told(
    name: str, finder: KernelFinder, write_spec: Any, kernels: Path
) -> None:
    """A directory that Jupyter's rule does not allow is left out, and named in one line."""
    directory = write_spec(name, ARGV)
    assert found(finder, kernels) == {}
    message = problem_of(finder)
    assert repr(str(directory)) in message
    assert "its name must have ASCII letters" in message
    assert len(finder.problems) == 1


def test_what_is_no_kernelspec_is_passed_over(
    finder: KernelFinder, write_spec: Any, kernels: Path
) -> None:
    """Files and directories without a kernel.json are nobody's fault."""
    (kernels / "README").write_text("hello")
    (kernels / "logos only").mkdir()
    write_spec("good", ARGV)
    assert list(found(finder, kernels)) == ["good"]
    assert finder.problems == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        ("[]", "it is not a JSON object"),
        ("{}", "argv must be a list of strings"),
        ({"argv": "python"}, "argv must be a list of strings"),
        ({"argv": []}, "argv must be a list of strings, and not empty"),
        ({"argv": ["python", 3]}, "argv must be a list of strings"),
        ({"argv": ARGV, "display_name": None}, "display_name must be a string"),
        ({"argv": ARGV, "language": ["python"]}, "language must be a string"),
        ({"argv": ARGV, "interrupt_mode": "shout"}, "interrupt_mode must be 'signal' or 'message'"),
        ({"argv": ARGV, "interrupt_mode": 2}, "interrupt_mode must be 'signal' or 'message'"),
        ({"argv": ARGV, "kernel_protocol_version": 5.5}, "kernel_protocol_version must be a"),
        ({"argv": ARGV, "env": ["A=1"]}, "env must be an object of strings"),
        ({"argv": ARGV, "env": {"A": 1}}, "env must be an object of strings"),
        ({"argv": ARGV, "metadata": "none"}, "metadata must be an object"),
    ],
)
def test_a_bad_file_costs_itself_only(
    content: Any, why: str, finder: KernelFinder, write_spec: Any, kernels: Path
) -> None:
    """The other kernelspecs are found, and the problem names the file and why."""
    file = write_spec("bad", ARGV) / "kernel.json"
    write_spec("good", ARGV)
    if isinstance(content, dict):
        content = json.dumps(content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert list(found(finder, kernels)) == ["good"]
    message = problem_of(finder)
    assert repr(str(file)) in message
    assert why in message
    with pytest.raises(KernelspecError, match=r"kernel\.json"):
        KernelSpec.read(file.parent)


def test_a_bad_entry_costs_itself_only(
    finder: KernelFinder, write_spec: Any, kernels: Path
) -> None:
    """Dangling links, loops, and a kernel.json that is no file are each named."""
    (kernels / "dangling").symlink_to(kernels / "nowhere")
    (kernels / "loop").symlink_to(kernels / "loop")
    (kernels / "half").mkdir()
    (kernels / "half" / "kernel.json").symlink_to(kernels / "nowhere")
    (kernels / "folder" / "kernel.json").mkdir(parents=True)
    write_spec("good", ARGV)
    assert list(found(finder, kernels)) == ["good"]
    message = problem_of(finder)
    for name, why in {
        "dangling": "a symbolic link to nothing",
        "half": "a symbolic link to nothing",
        "folder": "its kernel.json is not a file",
        "loop": "",
    }.items():
        assert f"{str(kernels / name)!r} is left out: {why}" in message


def test_a_bad_directory_costs_itself_only(
    finder: KernelFinder, write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place of the search path that cannot be listed is named, and the next one is read."""
    monkeypatch.setenv("JUPYTER_PATH", f"{tmp_path / 'odd'}{os.pathsep}{tmp_path / 'first'}")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "kernels").write_text("not a directory")
    write_spec("good", ARGV)
    assert list(found(finder, tmp_path)) == ["good"]
    assert repr(str(tmp_path / "odd" / "kernels")) in problem_of(finder)


def test_a_bad_kernelspec_hides_those_of_its_name(
    finder: KernelFinder, write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets another kernel than the one that comes first, as in Jupyter."""
    monkeypatch.setenv("JUPYTER_PATH", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    write_spec("same", [])
    write_spec("same", ARGV, tmp_path / "second" / "kernels")
    assert found(finder, tmp_path) == {}
    assert "argv must be" in problem_of(finder)


@pytest.mark.parametrize("entry", ["", ".", "here"])
def test_the_current_directory_is_never_read(
    entry: str,
    finder: KernelFinder,
    write_spec: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A relative or empty entry of JUPYTER_PATH finds nothing, and is told of."""
    here = tmp_path / "here"
    write_spec("trap", ARGV, here / "kernels")
    write_spec("trap", ARGV, here / "here" / "kernels")
    monkeypatch.chdir(here)
    monkeypatch.setenv("JUPYTER_PATH", f"{tmp_path / 'first'}{os.pathsep}{entry}")
    assert "trap" not in {kernel_type.name for kernel_type in finder.find_kernels()}
    assert "JUPYTER_PATH must have absolute paths" in problem_of(finder)


def test_asking_for_a_bad_kernelspec_says_why(finder: KernelFinder, write_spec: Any) -> None:
    """The error for an id that would be there, were its file not broken, quotes the problem."""
    directory = write_spec("quite-a-broken-one", ARGV)
    (directory / "kernel.json").write_text("{")
    with pytest.raises(NoSuchKernel) as caught:
        finder.get("spec/quite-a-broken-one")
    assert "is not JSON" in str(caught.value)


def test_logos_are_found(finder: KernelFinder, write_spec: Any) -> None:
    """Logos are given by name, those that there are."""
    directory = write_spec("pretty", ARGV)
    for name in ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg", "kernel.js"):
        (directory / name).touch()
    assert logos(finder.get("spec/pretty")) == {
        "logo-32x32": directory / "logo-32x32.png",
        "logo-64x64": directory / "logo-64x64.png",
        "logo-svg": directory / "logo-svg.svg",
    }
    write_spec("plain", ARGV)
    assert logos(finder.get("spec/plain")) == {}
