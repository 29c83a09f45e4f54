"""The provider ``ssh``: kernels on other machines, reached through an SSH connection alone."""
