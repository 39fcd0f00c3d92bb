"""What stands for Python in a step's command: asks the prepared process for the room, waits, and ends as it ended.

python -IS beginning.py SOCKET -m MODULE ARGUMENTS...; it imports next to nothing, since every room waits for it.
"""

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Speaks to the process of `preparing.py`."""
    name, dash, module, *arguments = sys.argv[1:]
    if dash != "-m":
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
    asked = json.dumps({"module": module, "arguments": arguments, "environment": dict(os.environ),
                        "folder": os.getcwd()}).encode()
    message = b"%d\n%s" % (len(asked), asked)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as process:
        process.connect("\0" + name)
        sent = socket.send_fds(process, [message[:32768]], [0, 1, 2])
        process.sendall(message[sent:])
        answer = process.recv(16)
    if not answer:
        sys.exit("the process that rooms begin from is gone")
    code = int(answer)
    if code < 0:  # the same end as the room's
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
