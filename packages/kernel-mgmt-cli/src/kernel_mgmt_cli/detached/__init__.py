"""The commands for kernels that run on when the command has ended, each kept by a nanny."""
