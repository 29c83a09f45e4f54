"""What runs on the host of a kernel: carried there over standard input, by any Python from 3.9 on."""
