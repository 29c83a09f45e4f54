r"""A real Jupyter kernel that does what it is told: for tests and benchmarks.

It stands in for kernels of any sort, good and bad ones, and needs nothing but pyzmq::

    python -m kernel_mgmt.testing.echo_kernel -f CONNECTION_FILE [OPTIONS]

It speaks tcp and ipc, CURVE when the connection file holds keys, picks and registers its ports when
it is given a registration file (JEP 66), and sends ``iopub_welcome`` (JEP 65).  While a cell runs it serves control, heartbeat and stdin.  SIGINT interrupts a running
cell and does nothing to an idle kernel.  It ends itself when its parent (``JPY_PARENT_PID``) is
gone.  A ``comm_msg`` comes back on iopub with the same data and buffers.

Code is a list of commands, one a line; empty code does nothing, quickly:

====================== ===========================================================================
``print TEXT``         a line on the stream ``stdout``
``stderr TEXT``        a line on the stream ``stderr``
``result TEXT``        an ``execute_result`` of ``text/plain``
``display MIME TEXT``  a ``display_data``
``nan``                an ``execute_result`` whose data hold NaN
``error ENAME EVALUE`` fails; what is queued behind it is aborted when ``stop_on_error`` is set
``sleep SECONDS``      waits; may be interrupted
``hang``               serves nothing at all, not even the heartbeat, until killed or interrupted
``input PROMPT``       asks on stdin and prints the answer; the answer ``\x04`` is an ``EOFError``
``password PROMPT``    likewise, hidden
``flood COUNT SIZE``   COUNT messages of ``stdout``, each a text of SIZE characters that begins
                       with its number; all signed first, then sent in one burst
``late SECONDS TEXT``  prints TEXT that much later, as a rule after the reply and idle
``noreply``            the request gets no reply, only idle
``noidle``             the request gets its reply, but never idle
``bad KIND``           a broken message on iopub: ``unsigned``, ``forged``, ``replayed`` (the first
                       of two is good), ``truncated``, ``notjson``, ``nodelimiter``,
                       ``badcontent``, ``empty``; all but the first ``replayed`` try to print "bad"
``env NAME``           prints an environment variable; unset is a ``KeyError``
``cwd``                prints the working directory
``pid``                prints the process id
``spawn``              starts ``sleep 1000`` in the same process group and prints its process id
``exit CODE``          ends the process without a reply, when what it has sent is out
``signal NUMBER``      sends the process a signal
``outside TEXT``       a line on the process's own standard output, past the protocol
``outside-stderr TEXT`` likewise, standard error
anything else          comes back as an ``execute_result``: the echo
====================== ===========================================================================

Options for kernels that misbehave from the start are listed by ``--help``.  With
``--protocol 4.1`` it speaks version 4 of the protocol as the kernels of its time did: no status
around anything but code and comms, no idle for what is aborted, silence for what it does not know.
It has no subshells: it runs everything in one thread.

Source: *Messaging in Jupyter*, protocol 5.5; *Making kernels for Jupyter*; *Messaging in IPython*,
protocol 4.1.
"""
