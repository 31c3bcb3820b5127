"""aiosmtpd as a host with a habit: ADDRESS PORT open|single DIRECTORY."""
import pathlib
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

address, port, habit, directory = sys.argv[1:]


class Handler:
    """Writes each message into a file of its own, the recipients in front."""

    count = 0

    async def handle_RCPT(self, server, session, envelope, recipient, options):
        if habit == "single" and envelope.rcpt_tos:
            return "452 4.5.3 One recipient at a time"
        envelope.rcpt_tos.append(recipient)
        return "250 2.1.5 Taken"

    async def handle_DATA(self, server, session, envelope):
        Handler.count += 1
        file = pathlib.Path(directory, str(Handler.count))
        text = "\n".join(envelope.rcpt_tos).encode() + b"\n\n" + envelope.content
        file.with_suffix(".part").write_bytes(text)
        file.with_suffix(".part").rename(file)
        return "250 2.0.0 Kept"


class Server(SMTP):
    """Where it is open, only RSET ends a transaction."""

    async def smtp_DATA(self, arg):
        envelope = self.envelope
        result = await super().smtp_DATA(arg)
        if habit == "open":
            self.envelope = envelope
        return result


class Host(Controller):
    """The usual controller with that server."""

    def factory(self):
        return Server(self.handler, hostname=f"mx.{habit}.test")


controller = Host(Handler(), hostname=address, port=int(port))
controller.start()
threading.Event().wait()
