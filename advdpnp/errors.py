"""The one kind of error a user is meant to see."""


class AdvdpnpError(Exception):
    """Something the user did or met stops the work.

    The message is one sentence that says what is wrong and what to do about it. The command line prints it
    without a traceback and exits with code 2.
    """
