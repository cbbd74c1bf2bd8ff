#!/usr/bin/python3 -IS
"""The CNI plugin: hands environment and standard input to the agent over its socket, prints the answer.

Promises: imports builtin modules only, so it starts as fast as the interpreter; holds no credentials; with the agent
down ADD says so with code 11, STATUS with 51, and DEL writes the release down where the agent finds it, and succeeds.
Does not know: what an attachment is. The form of a call is described in agent/cni/server.py, that of a release in
agent/cni/release_journal.py; the C shim beside this file does the same.
"""

import _socket
import posix
import time

NAMES = (b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH")
MOST_STDIN_BYTES = 1 << 20
VERSIONS = b'["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]'
SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
LONGEST_VALUE = 8191
LONGEST_ID_IN_NAME, LONGEST_INTERFACE = 150, 15
"""What is cut from a release's name, and the kernel's bound (IFNAMSIZ): with both the name is none too long."""
WAIT_SECONDS, WAIT_SECONDS_OF_DEL = 110.0, 15.0
"""A DEL has the journal instead; an ADD waits for routes, and its runtime has a deadline of its own."""


def setting(name: bytes, default: bytes) -> bytes:
    """A path from the environment, or the default."""
    return posix.environ.get(name) or default


def read_all() -> bytes:
    """Standard input, up to its bound."""
    data = b""
    while len(data) <= MOST_STDIN_BYTES:
        part = posix.read(0, 1 << 16)
        if not part:
            break
        data += part
    return data[: MOST_STDIN_BYTES + 1]


def finish(status: int, output: bytes) -> None:
    """Print and leave."""
    while output:
        output = output[posix.write(1, output) :]
    posix._exit(status)


def quoted(data: bytes) -> bytes:
    """Bytes as the inside of a JSON string."""
    out = []
    for octet in data:
        if octet in (0x22, 0x5C):
            out.append("\\" + chr(octet))
        elif 0x20 <= octet < 0x7F:
            out.append(chr(octet))
        else:
            out.append("\\u%04x" % octet)
    return "".join(out).encode()


def fail(code: int, message: bytes) -> None:
    """An error as the specification has it."""
    finish(1, b'{"cniVersion":"1.0.0","code":%d,"msg":"%s"}' % (code, quoted(message)))


def ask(call: bytes, wait: float) -> tuple[int, bytes]:
    """The agent's answer: exit status and output. Raises OSError when there is no agent."""
    path = setting(b"TORTIE_CNI_SOCKET", b"/run/tortie/cni.sock")
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(wait)
    connection.connect(path)
    connection.sendall(call)
    connection.shutdown(_socket.SHUT_WR)
    answer = b""
    while True:
        part = connection.recv(1 << 16)
        if not part:
            break
        answer += part
    if answer[:1] not in (b"0", b"1"):
        raise OSError("the agent closed the connection without an answer")
    return int(answer[:1]), answer[1:]


def record(environment: dict[bytes, bytes], config: bytes) -> None:
    """Write the release of a DEL down, durably, in the journal's form. Raises OSError."""
    state = setting(b"TORTIE_STATE_DIR", b"/var/lib/tortie")
    directory = state + b"/releases"
    for made in (state, directory):
        try:
            posix.mkdir(made, 0o700)
        except FileExistsError:
            pass
    container, interface = environment[b"CNI_CONTAINERID"], environment[b"CNI_IFNAME"]
    bad = not container or not interface or len(interface) > LONGEST_INTERFACE
    if bad or not SAFE.issuperset(container + interface):
        fail(4, b"DEL needs CNI_CONTAINERID and CNI_IFNAME of letters, digits, '_', '.', '-'")
    cut = container if len(container) <= LONGEST_ID_IN_NAME else container[:LONGEST_ID_IN_NAME] + b"~"
    name = directory + b"/%d-%s-%s.json" % (time.time_ns(), cut, interface)
    pairs = b",".join(b'"%s":"%s"' % (key, quoted(value)) for key, value in environment.items())
    text = b'{"environment":{%s},"config":"%s"}' % (pairs, quoted(config))
    descriptor = posix.open(name + b".new", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o600)
    try:
        while text:
            text = text[posix.write(descriptor, text) :]
        posix.fsync(descriptor)
        posix.rename(name + b".new", name)
    except OSError:
        posix.unlink(name + b".new")  # a full disk
        raise
    opened = posix.open(directory, posix.O_RDONLY)
    posix.fsync(opened)


def main() -> None:
    """One call."""
    given = {name: posix.environ.get(name, b"") for name in NAMES}
    environment = {name: value if len(value) <= LONGEST_VALUE else b"" for name, value in given.items()}
    verb = environment[b"CNI_COMMAND"]
    if not verb:
        posix.write(2, b"tortie: a CNI plugin; a container runtime calls it. Supported: %s\n" % VERSIONS)
        posix._exit(0)
    config = read_all()
    call = b"\0".join(b"%s=%s" % pair for pair in environment.items()) + b"\0\0" + config
    try:
        status, output = ask(call, WAIT_SECONDS_OF_DEL if verb == b"DEL" else WAIT_SECONDS)
    except OSError as error:
        why = b"the agent does not answer: " + (error.strerror or "no answer").encode()
        if verb == b"VERSION":
            finish(0, b'{"cniVersion":"1.0.0","supportedVersions":%s}' % VERSIONS)
        if verb == b"STATUS":
            fail(51, why + b": no route is learned or repaired; is tortie-agent running?")
        if verb != b"DEL":
            fail(11, why + b"; is tortie-agent running?")
        try:
            record(environment, config)
        except OSError as refused:
            fail(11, why + b", and the release cannot be written down: " + (refused.strerror or "?").encode())
        finish(0, b"")
    finish(status, output)


main()
