"""Measures kernel-mgmt beside ``jupyter_client`` and a floor of raw pyzmq; see README.md."""
