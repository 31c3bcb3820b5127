"""What Python reads in messages, asked by the test `corpus`: one question a line on stdin, in JSON, one answer a line.

    judge.py trees|recipients|bounces
"""

import email
import email.header
import email.message
import email.utils
import inspect
import json
import re
import sys

# They say how content is written, and may change when it is written in another way.
OF_THE_ENCODING = {"mime-version", "content-transfer-encoding"}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def answer(n, verdict, why=""):
    print(json.dumps({"n": n, "verdict": verdict, "why": why}))


# ---------------------------------------------------------------- trees

ADDRESSES = {"from", "sender", "reply-to", "to", "cc", "bcc"}
STRICT = {"strict": False} if "strict" in inspect.signature(email.utils.getaddresses).parameters else {}
BLANK_BEFORE_COLON = re.compile(rb"(?m)^[!-9;-~]+[ \t]+:")
# Two parameters, and only blanks between them.
NO_SEMICOLON = re.compile(rb'(?mi)^content-(?:type|disposition):(?:[^\n]|\n[ \t])*?"[ \t\r\n]+[a-z0-9-]+[*0-9]*="')
ONE_TO_PYTHON = "parameters with no semicolon between them are one to Python"
OBSOLETE = "a field with a blank before its colon (RFC 5322 section 4.5) is text to Python"


def text_of(value):
    """A field as it is written, octets above 127 read as UTF-8."""
    octets = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else str(value).encode()
    return re.sub(r"\r?\n(?=[ \t])", "", octets.decode("utf-8", "backslashreplace"))


def decoded(value):
    text = text_of(value)
    try:
        return str(email.header.make_header(email.header.decode_header(text)))
    except (LookupError, UnicodeError, ValueError, email.errors.HeaderParseError):
        return text


def parameters(text):
    """What a field with parameters means, however they are written (RFC 2231)."""
    message = email.message.Message()
    message["Content-Type"] = text
    return [(name, email.utils.collapse_rfc2231_value(value)) for name, value in message.get_params([])]


def meaning(name, value):
    """What a reader is shown of a field."""
    if name in ADDRESSES:
        pairs = email.utils.getaddresses([text_of(value)], **STRICT)
        return [(decoded(shown), address) for shown, address in pairs]
    if name in ("content-type", "content-disposition"):
        return parameters(text_of(value))
    return decoded(value)


def fields(message):
    return [(name.lower(), meaning(name.lower(), value)) for name, value in message.raw_items()
            if name.lower() not in OF_THE_ENCODING]


def without_label(one, other):
    """Fields of both, without a Content-Type that says of a part that had none what it is."""
    new = fields(other)
    if "content-type" not in one and re.match(r"text/plain; ?charset=", str(other.get("content-type", ""))):
        new = [field for field in new if field[0] != "content-type"]
    return fields(one), new


def difference(one, other, path="1"):
    """None, or how the two differ."""
    was, became = without_label(one, other)
    if was != became:
        pairs = [pair for pair in zip(was, became) if pair[0] != pair[1]]
        return f"{path}: fields: {pairs[:1] or (len(was), len(became))}"
    if one.get_content_type() != other.get_content_type():
        return f"{path}: {one.get_content_type()} became {other.get_content_type()}"
    if one.is_multipart() != other.is_multipart():
        return f"{path}: a multipart to one only"
    if one.is_multipart():
        if len(one.get_payload()) != len(other.get_payload()):
            return f"{path}: {len(one.get_payload())} parts became {len(other.get_payload())}"
        for number, (a, b) in enumerate(zip(one.get_payload(), other.get_payload()), 1):
            how = difference(a, b, f"{path}.{number}")
            if how:
                return how
        return None
    if not other.get_payload().isascii() and one.get_payload() != other.get_payload():
        return f"{path}: its content was changed, and still has octets above 127"
    a, b = one.get_payload(decode=True), other.get_payload(decode=True)
    if a != b:
        at = next((at for at, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        return f"{path}: content differs at {at} of {len(a)}: {a[max(0, at - 20):at + 30]!r} {b[max(0, at - 20):at + 30]!r}"
    return None


def trees(question):
    sent, became = (read(path) for path in question["files"])
    how = difference(email.message_from_bytes(sent), email.message_from_bytes(became))
    if how and BLANK_BEFORE_COLON.search(header_of(sent)):
        answer(question["n"], "allowed", OBSOLETE)
    elif how and NO_SEMICOLON.search(header_of(sent)):
        answer(question["n"], "allowed", ONE_TO_PYTHON)
    else:
        answer(question["n"], "differing" if how else "converted", how or "")


# ---------------------------------------------------------------- recipients

ORIGIN = "home.test"
AGAIN = ("resent-to", "resent-cc", "resent-bcc")
LISTS = ("to", "cc", "bcc")


def normal(address):
    local, at, domain = address.rpartition("@")
    if not at:
        return f"{address}@{ORIGIN}"
    return f"{local}@{domain.lower()}"


def addresses(message):
    """Those that Python finds, and the text that it finds them in."""
    def values_of(names):
        return [text_of(value) for name, value in message.raw_items() if name.lower() in names]
    values = values_of(AGAIN) or values_of(LISTS)
    found = [address for _, address in email.utils.getaddresses(values, **STRICT)]
    return {normal(address) for address in found if address}, values


def split(octets):
    """The header section, which the first line that is no field ends, too, and what follows."""
    at = 0
    while at < len(octets):
        end = octets.find(b"\r\n", at) + 2 or len(octets)
        line = octets[at:end]
        is_continued = at > 0 and line[:1] in (b" ", b"\t")
        if not is_continued and not re.match(rb"[!-9;-~]+[ \t]*:", line):
            break
        at = end
    return octets[:at], octets[at:].removeprefix(b"\r\n")


def header_of(octets):
    return split(octets)[0]


def body_of(octets):
    return split(octets[octets.index(b"\r\n") + 2:] if octets.startswith(b"From ") else octets)[1]


def without_words(said):
    """What the program said, without what is of this message only."""
    return re.sub(r"<[^>]*>|\"[^\"]*\"", "...", said.splitlines()[0])


def harmless(body):
    """As `sendmail` writes what no server would take: a classic program counts on it."""
    body = re.sub(rb"\r+\n|\r", b"\r\n", body)
    return body.replace(b"\0", b"^@")


def recipients(question):
    n, sent = question["n"], read(question["sent"])
    wanted, values = addresses(email.message_from_bytes(sent))
    got = {normal(address) for address in question["to"]}
    said, is_refused = question["said"].strip(), question["exit"] != 0
    missing, more = wanted - got, got - wanted
    if is_refused and not said:
        return answer(n, "differing", f"exit {question['exit']} without a word")
    unnamed = [one for one in missing if one.removesuffix(f"@{ORIGIN}").lower() not in said.lower()]
    if is_refused and not got and sent[:1] in (b" ", b"\t"):
        return answer(n, "refused", f"exit {question['exit']}, a first line that begins with a blank ends the header")
    if more or (missing and not is_refused) or unnamed:
        if BLANK_BEFORE_COLON.search(header_of(sent)):
            return answer(n, "allowed", OBSOLETE)
        why = f"exit {question['exit']}, {said[:200]!r}; missing {sorted(missing)}, more {sorted(more)} of {values}"
        return answer(n, "differing", why)
    if is_refused:
        return answer(n, "refused", f"exit {question['exit']}, {without_words(said)}")
    if len(question["arrived"]) != 1:
        return answer(n, "differing", f"{len(question['arrived'])} distinct contents arrived")
    expected, became = body_of(sent), body_of(read(question["arrived"][0]))
    if expected == became:
        return answer(n, "identical")
    if harmless(expected) == became:
        return answer(n, "allowed", "NUL becomes ^@, a CR that ends no line a line end")
    at = next((at for at, (x, y) in enumerate(zip(expected, became)) if x != y), min(len(expected), len(became)))
    answer(n, "differing", f"body at {at} of {len(expected)}: {expected[max(0, at - 20):at + 30]!r} {became[max(0, at - 20):at + 30]!r}")


# ---------------------------------------------------------------- bounces

RETURNED_MAX = 1 << 20


def bounces(question):
    from flufl.bounce import all_failures

    n, octets, sent = question["n"], read(question["notice"]), read(question["sent"])
    notice = email.message_from_bytes(octets)
    _, permanent = all_failures(notice)
    recipient = question["recipient"].encode()
    inside = permanent - {recipient}
    if recipient not in permanent or any(one not in sent for one in inside):
        return answer(n, "differing", f"flufl.bounce finds {permanent}")
    parts = notice.get_payload()
    if notice.get_content_type() != "multipart/report" or len(parts) != 3:
        return answer(n, "differing", f"{notice.get_content_type()} of {len(parts)} parts")
    kind = parts[2].get_content_type()
    if question["ret"] == "FULL" and kind in ("message/rfc822", "message/global"):
        if sent not in octets:
            return answer(n, "differing", f"{kind}, and not what was sent")
    elif kind not in ("text/rfc822-headers", "message/global-headers"):
        return answer(n, "differing", kind)
    elif question["ret"] == "FULL":
        why = why_header_only(sent)
        return answer(n, "allowed" if why else "differing", f"RET=FULL, and only the header comes back: {why}")
    if inside:
        return answer(n, "allowed", "the returned message is a bounce, too, and flufl.bounce finds also its recipients")
    answer(n, "identical")


def why_header_only(sent):
    """Our notices carry 1 MiB at most, and no lines that are too long (RFC 5322 section 2.1.1)."""
    if len(sent) > RETURNED_MAX:
        return "it is larger than 1 MiB"
    if max(map(len, sent.split(b"\r\n"))) > 998:
        return "it has a line of more than 998 octets"
    return "" if sent.isascii() else "it has eight bits and cannot be converted"


def main():
    judge = {"trees": trees, "recipients": recipients, "bounces": bounces}[sys.argv[1]]
    for line in sys.stdin:
        judge(json.loads(line))


if __name__ == "__main__":
    main()
