"""``python -m kernel_mgmt_cli`` is the command ``kernel-mgmt``."""

from .main import main

if __name__ == "__main__":
    main()
