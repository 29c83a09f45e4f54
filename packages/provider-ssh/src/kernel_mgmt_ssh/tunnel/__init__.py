"""The process that holds one SSH connection; all that imports paramiko is here."""
