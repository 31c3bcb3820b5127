"""aiosmtpd keeps what it is sent: ADDRESS PORT CERTIFICATE KEY DIRECTORY."""
import pathlib
import ssl
import sys
import threading

from aiosmtpd.controller import Controller

address, port, certificate, key, directory = sys.argv[1:]


class Keeper:
    """Writes each message into a file of its own."""

    count = 0

    async def handle_DATA(self, server, session, envelope):
        assert session.ssl is not None
        Keeper.count += 1
        file = pathlib.Path(directory, "box", "new", str(Keeper.count))
        file.with_suffix(".part").write_bytes(envelope.content)
        file.with_suffix(".part").rename(file)
        return "250 2.0.0 Kept"


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
pathlib.Path(directory, "box", "new").mkdir(parents=True)
controller = Controller(
    Keeper(),
    hostname=address,
    port=int(port),
    server_hostname="mx.aiosmtpd.test",
    tls_context=context,
    require_starttls=True,
    data_size_limit=64 << 20,
    enable_SMTPUTF8=True,
)
controller.start()
threading.Event().wait()
