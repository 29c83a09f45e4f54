"""The command ``kernel-mgmt``: Jupyter kernels at a terminal.

The API is for distributions that add subcommands: :mod:`kernel_mgmt_cli.plugins`, and
:class:`kernel_mgmt_cli.errors.CommandError`.
"""

__version__ = "0.1.0"
