"""Fetches the packages of sources.tsv and takes the messages out of them that their tests keep.

    fetch.py CACHE

CACHE/packages keeps what was downloaded, CACHE/messages the messages, each once, with line ends CRLF, named by the
begin of their SHA-256; CACHE/index.tsv says where each is from. Where the registries are, this machine's own tools
know: apt-get, cargo and pip. A package that was fetched before is not asked for again.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# No message of a test is longer; what is, is data of another kind.
OCTETS_MAX = 4_000_000
MESSAGE_NAME = re.compile(r"\.(eml|email|msg|mbox|mail|rfc822|out-message)$", re.I)
# Programs, documents and pictures, whatever they begin with.
OTHER_NAME = re.compile(
    r"\.(c|cc|cpp|h|hpp|pm|pl|pod|py|rb|go|rs|js|ts|sh|php|phpt|java|el|html?|xml|json|ya?ml|toml|md|rst|po|pot|patch|diff"
    r"|in|am|ac|m4|gz|bz2|xz|zip|png|jpe?g|gif|pdf|css|svg|tmpl|sql|vim|cmake|list|dsc|1|3|5|8)$", re.I)
FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
# A file that begins with one of these, and with fields, is a message.
USUAL = re.compile(
    rb"(from|to|subject|received|return-path|date|message-id|mime-version|content-type|delivered-to|sender|reply-to"
    rb"|x-[a-z-]+|dkim-signature|authentication-results|envelope-to|list-id|cc):", re.I)
BETWEEN = re.compile(rb"(?:\A|(?<=\n\n))(?=From \S[^\n]*(?:19|20)\d\d[^\n]*\n)")


def packages():
    with open(os.path.join(HERE, "sources.tsv"), encoding="ascii") as lines:
        return [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#")]


# ---------------------------------------------------------------- downloads

class Debian:
    """Sources by apt-get with a configuration of its own: the machine's stays as it is."""

    def __init__(self, folder, releases):
        self.folder = folder
        for name in ("lists/partial", "archives/partial"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        with open(os.path.join(folder, "sources.list"), "w", encoding="ascii") as out:
            for release in releases:
                out.write(f"deb-src [signed-by={KEYRING}] {self.archive()} {release} main\n")
        self.run("update")

    @staticmethod
    def archive():
        """The archive that this machine has its own packages from."""
        form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
        lines = subprocess.run(["apt-get", "indextargets", "--format", form], capture_output=True, text=True,
                               check=True).stdout.splitlines()
        if not lines:
            subprocess.run(["apt-get", "-qq", "update"], check=True)
            return Debian.archive()
        return next(line.split()[2] for line in lines if line.startswith("Debian Debian "))

    def run(self, *arguments, where=None):
        f = self.folder
        options = ["-o", f"Dir::Etc::SourceList={f}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
                   "-o", f"Dir::State::Lists={f}/lists", "-o", f"Dir::Cache={f}", "-o", "Acquire::Retries=3",
                   "-o", "APT::Sandbox::User="]
        subprocess.run(["apt-get", "-qq", *options, *arguments], check=True, cwd=where, stdout=subprocess.DEVNULL)

    def fetch(self, name, release, into):
        """The authors' own files: what Debian adds has no messages, and not every mirror has all of it."""
        self.run("source", "--download-only", "--tar-only", f"{name}/{release}", where=into)


def fetch_crate(name, version, into):
    """By a manifest that names it: cargo keeps the sources of what it fetched."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/src")
        open(f"{folder}/src/lib.rs", "w", encoding="ascii").close()
        with open(f"{folder}/Cargo.toml", "w", encoding="ascii") as out:
            out.write('[package]\nname = "nothing"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n\n[dependencies]\n'
                      f'{name} = {{ version = "={version}", default-features = false }}\n')
        said = subprocess.run(["cargo", "metadata", "--format-version=1", "--quiet"], cwd=folder, check=True,
                              capture_output=True, text=True).stdout
        package = next(one for one in json.loads(said)["packages"] if one["name"] == name)
        with tarfile.open(f"{into}/{name}-{version}.tar", "w") as tar:
            tar.add(os.path.dirname(package["manifest_path"]), arcname=f"{name}-{version}")


def fetch_pypi(name, version, into):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:",
                    f"--dest={into}", f"{name}=={version}"], check=True)


def fetch_all(cache):
    """Returns the folder of each package."""
    os.makedirs(f"{cache}/packages", exist_ok=True)
    debian, folders = None, []
    for registry, name, version in packages():
        folder = f"{cache}/packages/{registry}-{name}-{version}"
        folders.append((f"{registry} {name}", folder))
        if os.path.isdir(folder):
            continue
        partial = folder + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        os.mkdir(partial)
        try:
            if registry == "debian":
                debian = debian or Debian(f"{cache}/apt", sorted({one[2] for one in packages() if one[0] == "debian"}))
                debian.fetch(name, version, partial)
            elif registry == "crates":
                fetch_crate(name, version, partial)
            else:
                fetch_pypi(name, version, partial)
        except subprocess.CalledProcessError as error:
            # One package fewer: whoever counts the messages decides whether that matters.
            print(f"not fetched: {registry} {name}: {error}", file=sys.stderr)
            continue
        os.rename(partial, folder)
    return folders


# ---------------------------------------------------------------- messages

def files_of(folder):
    """Every file in every archive of a package."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for one in archive.infolist():
                    if not one.is_dir() and one.file_size <= OCTETS_MAX:
                        yield one.filename, archive.read(one)
        elif ".tar" in name and not name.endswith(".asc"):
            yield from files_of_tar(tarfile.open(path))
        elif name.endswith(".tgz"):
            yield from files_of_tar(tarfile.open(path))


def files_of_tar(archive):
    with archive:
        for one in archive:
            if one.isfile() and 0 < one.size <= OCTETS_MAX:
                yield one.name, archive.extractfile(one).read()


def is_message(name, octets):
    if re.match(r"(\./)?debian/", name) or OTHER_NAME.search(name):
        return False
    if MESSAGE_NAME.search(name):
        return True
    lines = octets[:20_000].replace(b"\r\n", b"\n").split(b"\n")
    if lines and lines[0].startswith(b"From "):
        del lines[0]
    fields = 0
    for line in lines[:12]:
        if FIELD.match(line):
            fields += 1
        elif not line.startswith((b" ", b"\t")):
            break
    return fields >= 3 and any(USUAL.match(line) for line in lines[:3])


def messages_in(octets):
    """Of a mailbox each, without the line between them."""
    unix = octets.replace(b"\r\n", b"\n")
    if not unix.startswith(b"From "):
        return [octets]
    parts = [part for part in BETWEEN.split(unix) if part]
    return [part.split(b"\n", 1)[1] for part in parts if b"\n" in part]


def with_crlf(octets):
    """As a client sends it. A bare CR stays: what is said to it is a part of the test."""
    octets = re.sub(rb"\r?\n", b"\r\n", octets)
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def take_messages(cache, folders):
    target = f"{cache}/messages"
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    index, counts = {}, []
    for package, folder in folders:
        new = 0
        if not os.path.isdir(folder):
            continue
        for name, octets in files_of(folder):
            if not is_message(name, octets):
                continue
            for one in messages_in(octets):
                message = with_crlf(one)
                digest = hashlib.sha256(message).hexdigest()[:16]
                if digest in index or not message.strip():
                    continue
                index[digest] = (package, name, len(message))
                new += 1
                with open(f"{target}/{digest}.eml", "wb") as out:
                    out.write(message)
        counts.append((package, new))
    with open(f"{cache}/index.tsv", "w", encoding="utf-8") as out:
        for digest, (package, name, size) in sorted(index.items()):
            out.write(f"{digest}\t{package}\t{size}\t{name!r}\n")
    return counts


def main():
    cache = os.path.abspath(sys.argv[1])
    os.makedirs(cache, exist_ok=True)
    counts = take_messages(cache, fetch_all(cache))
    total = sum(count for _, count in counts)
    with_some = [(package, count) for package, count in counts if count]
    print(f"{total} distinct messages from {len(with_some)} packages:")
    print(", ".join(f"{package.split()[1]} {count}" for package, count in sorted(with_some, key=lambda x: -x[1])))


if __name__ == "__main__":
    main()
