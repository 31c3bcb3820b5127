"""Python's smtplib sends one message: PORT CHANNEL FROM TO FILE CA USER PASSWORD."""
import smtplib
import ssl
import sys

port, channel, sender, recipient, path, ca, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
with open(path, "rb") as file:
    content = file.read()
if channel == "tls":
    smtp = smtplib.SMTP_SSL("localhost", int(port), local_hostname="client.test", context=context)
else:
    smtp = smtplib.SMTP("localhost", int(port), local_hostname="client.test")
with smtp:
    if channel == "starttls":
        smtp.starttls(context=context)
    if channel != "plain":
        smtp.login(user, password)
    smtp.ehlo_or_helo_if_needed()
    options = [] if content.isascii() else ["BODY=8BITMIME"]
    if not (sender + recipient).isascii():
        options.append("SMTPUTF8")
    smtp.sendmail(sender, [recipient], content, mail_options=options)
