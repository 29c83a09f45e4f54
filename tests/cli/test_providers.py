"""``kernel-mgmt providers``."""

from __future__ import annotations

import json

from command_line import Distribution, Run, WriteSpec


def test_providers_are_a_table(run: Run, echo: str) -> None:
    """Each provider is a line with the distribution and version that it comes from."""
    result = run("providers")
    header, *rows = [line.split() for line in result.stdout.splitlines()]
    assert header == ["id", "distribution", "kernels"]
    assert ["native", "kernel-mgmt-native", "0.1.0", "2"] in rows
    assert any(row[:3] == ["spec", "kernel-mgmt-kernelspec", "0.1.0"] for row in rows)
    assert (result.returncode, result.stderr) == (0, "")


def test_json_has_all_that_is_known(run: Run, distribution: Distribution) -> None:
    """With --json a program gets every field of a provider, problems included."""
    distribution("kernel-mgmt-broken", "kernel_mgmt", "broken", "import no_such_module")
    result = run("providers", "--json")
    providers = {provider["id"]: provider for provider in json.loads(result.stdout)}
    [problem] = providers["broken"].pop("problems")
    assert "No module named 'no_such_module'" in problem
    assert providers["broken"] == {
        "id": "broken",
        "distribution": "kernel-mgmt-broken 1.0",
        "loaded": False,
        "can_launch": False,
        "can_attach": False,
        "kernels": 0,
    }
    native = providers["native"]
    assert (native["loaded"], native["can_launch"], native["problems"]) == (True, True, [])


def test_a_broken_provider_is_told_and_costs_itself_only(
    run: Run, distribution: Distribution
) -> None:
    """The reason why a provider could not be loaded is in its line."""
    distribution("kernel-mgmt-broken", "kernel_mgmt", "broken", "import no_such_module")
    result = run("providers")
    [line] = [line for line in result.stdout.splitlines() if line.startswith("broken ")]
    assert "kernel-mgmt-broken 1.0" in line
    assert "No module named 'no_such_module'" in line
    assert "native" in result.stdout
    assert result.returncode == 0


def test_a_misspelt_hook_is_told(run: Run, distribution: Distribution) -> None:
    """A provider's hook whose name is wrong is a problem that names it."""
    code = "from kernel_mgmt import hookimpl\n@hookimpl\ndef kernel_mgmt_find_kernel(): return []"
    distribution("kernel-mgmt-misspelt", "kernel_mgmt", "misspelt", code)
    assert "kernel_mgmt_find_kernel" in run("providers").stdout


def test_a_bad_kernelspec_is_told(run: Run, write_spec: WriteSpec) -> None:
    """A provider's problem with one kernel type names what to mend."""
    directory = write_spec("bad", "no list")
    assert str(directory / "kernel.json") in run("providers").stdout
