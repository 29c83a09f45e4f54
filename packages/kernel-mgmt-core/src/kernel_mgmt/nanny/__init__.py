"""The nanny: runs next to a kernel, keeps it, and exposes its manager over ZeroMQ.

It stands between a kernel and its clients, so that their addresses stay while kernels come and go::

    client(s) ==shell control stdin iopub hb==> [ front | back ] ==> kernel
    managers  --nanny_control, nanny_events--> [ supervisor ]

One process keeps one kernel: ``python -m kernel_mgmt.nanny`` reads a :class:`.request.NannyRequest` as
JSON on standard input and answers with one line of JSON on standard output.  The wire format is
described in ``docs/nanny.md``.

What is in this package travels to hosts that have nothing of ours: the standard library, pyzmq, and
the modules of core that say the same.
"""
