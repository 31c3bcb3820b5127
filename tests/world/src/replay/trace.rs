//! What a program did to files and sockets, read from `strace -f -yy -s 99999999 -xx -o FILE`.
//!
//! Every line has a number. A call has two: where it began, and where it ended. What a write
//! changes may reach the disk from its beginning on; what a sync makes durable is what had ended
//! before the sync began, and it is durable when the sync has ended.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// The calls that are recorded; [`Call`] says what they mean.
const CALLS: &str = "openat,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,rename,renameat,\
    renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,fsync,fdatasync,sync_file_range,\
    copy_file_range,sendfile,splice,mmap,sendto,sendmsg,recvfrom,read,readv";

/// One system call that succeeded.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Line on which it began.
    pub begun: usize,
    /// Line on which it ended.
    pub ended: usize,
    /// What it returned.
    pub returned: i64,
    /// All file descriptors with the path behind each, in order, the returned one last.
    pub files: Vec<File>,
    /// All string arguments, decoded.
    pub strings: Vec<Vec<u8>>,
    /// The arguments as they stand there, strings and paths left out.
    pub rest: String,
}

/// A file descriptor as an argument or result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct File {
    /// Its number in the process.
    pub number: i64,
    /// Path of a file that has a name; `None` for sockets, pipes and files that were unlinked.
    pub path: Option<String>,
    /// Whether it is a TCP connection.
    pub is_tcp: bool,
}

impl Call {
    /// The bytes it wrote or read.
    pub fn data(&self) -> Vec<u8> {
        let mut data = self.strings.concat();
        data.truncate(usize::try_from(self.returned).unwrap_or_default());
        data
    }

    /// The last of its arguments, a number.
    pub fn last_number(&self) -> u64 {
        let text = self.rest.rsplit(',').next().unwrap_or_default().trim();
        text.parse().unwrap_or_else(|_| panic!("no number at the end: {self:?}"))
    }
}

/// A script that runs `program`, under strace if the file `armed` is there; it removes that file.
pub fn write_wrapper(script: &Path, program: &str, strace_options: &str, armed: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = run ] && [ -e {armed} ]; then\n  rm {armed}\n  exec strace -D -f {strace_options} {program} \"$@\"\nfi\n\
         exec {program} \"$@\"\n",
        armed = armed.display()
    );
    std::fs::write(script, text).expect("write a script");
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let found = Command::new("strace").arg("-V").output();
    assert!(found.is_ok_and(|output| output.status.success()), "strace is not installed");
}

/// The options that make what [`read`] reads.
pub fn recording_options(file: &Path) -> String {
    format!("-yy -s 99999999 -xx -e trace={CALLS} -o {}", file.display())
}

/// All successful calls of a trace in the order of their ends.
pub fn read(text: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((pid, line)) = line.split_once(' ') else { continue };
        let line = line.trim_start();
        if let Some(begin) = line.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, (number, begin));
        } else if line.starts_with("<... ") {
            let (begun, begin) = unfinished.remove(pid).expect("resumed after it was begun");
            let (_, end) = line.split_once("resumed>").expect("it says so");
            calls.extend(parse(&format!("{begin}{end}"), begun, number));
        } else {
            calls.extend(parse(line, number, number));
        }
    }
    calls
}

/// `name(arguments) = result`; `None` for anything else and for calls that failed.
fn parse(line: &str, begun: usize, ended: usize) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let mut call = Call {
        name: name.to_owned(),
        begun,
        ended,
        returned: leading_number(result)?,
        files: Vec::new(),
        strings: Vec::new(),
        rest: String::new(),
    };
    if call.returned < 0 {
        return None;
    }
    let arguments = arguments.trim_end().strip_suffix(')')?;
    call.rest = take_apart(arguments, &mut call.files, &mut call.strings);
    take_apart(result, &mut call.files, &mut Vec::new());
    Some(call)
}

fn leading_number(text: &str) -> Option<i64> {
    let end = text.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Moves strings and descriptors out of `text`; returns what is left.
fn take_apart(text: &str, files: &mut Vec<File>, strings: &mut Vec<Vec<u8>>) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['"', '<']) {
        left.push_str(&rest[..at]);
        let (mark, after) = rest[at..].split_at(1);
        if mark == "\"" {
            let (string, after) = after.split_once('"').expect("a string ends");
            strings.push(decode(string));
            rest = after;
        } else {
            let (behind, after) = split_annotation(after);
            let digits = left.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
            let number = left[digits..].parse().unwrap_or(-1);
            let deleted = after.starts_with("(deleted)");
            let path = behind.starts_with("\\x2f") && !deleted;
            let path =
                path.then(|| String::from_utf8(decode(behind)).expect("our paths are UTF-8"));
            files.push(File { number, path, is_tcp: behind.starts_with("TCP") });
            rest = after.strip_prefix("(deleted)").unwrap_or(after);
        }
    }
    left.push_str(rest);
    left
}

/// What stands between `<` and its `>`, and what follows: a path in hexadecimal, which a device's
/// numbers in brackets of their own may follow, or `TCP:[a->b]` and the like.
fn split_annotation(text: &str) -> (&str, &str) {
    let is_path = text.starts_with('\\');
    let end = if is_path { text.find(['<', '>']) } else { text.find("]>").map(|at| at + 1) };
    let end = end.or_else(|| text.find('>')).unwrap_or(text.len());
    let is_nested = text[end..].starts_with('<');
    let close = if is_nested { text[end..].find(">>").map_or(end, |at| end + at + 1) } else { end };
    (&text[..end], text.get(close + 1..).unwrap_or_default())
}

/// `\x61\x62` is `ab`. Addresses of sockets are written plainly.
fn decode(text: &str) -> Vec<u8> {
    if !text.starts_with("\\x") {
        return text.as_bytes().to_vec();
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => panic!("not hexadecimal: {text:.200}"),
    };
    text.as_bytes().chunks_exact(4).map(|four| digit(four[2]) << 4 | digit(four[3])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_descriptors_and_data() {
        let text = r#"7 openat(AT_FDCWD<\x2f\x74>, "\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3<\x2f\x74\x2f\x61>
7 pwrite64(3<\x2f\x74\x2f\x61>, "\x68\x69", 2, 4096 <unfinished ...>
8 sendto(9<TCP:[127.0.0.1:25->127.0.0.1:40]>, "\x32\x35\x30", 3, 0, {sin_addr=inet_addr("127.0.0.1")}, 16) = 3
7 <... pwrite64 resumed>)           = 2
7 pwrite64(3<\x2f\x74\x2f\x61>(deleted), "\x68", 1, 0) = 1
7 openat(AT_FDCWD<\x2f\x74>, "\x62", O_RDONLY) = -1 ENOENT (No such file or directory)
8 writev(9<TCP:[127.0.0.1:25->127.0.0.1:40]>, [{iov_base="\x61\x62", iov_len=2}, {iov_base="\x63", iov_len=1}], 2) = 3
7 read(5<\x2f\x75<char 1:9>>, "\x75", 1) = 1
7 +++ exited with 0 +++"#;
        let calls = read(text);
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["openat", "sendto", "pwrite64", "pwrite64", "writev", "read"]);
        assert_eq!(
            calls[0].files[1],
            File { number: 3, path: Some("/t/a".to_owned()), is_tcp: false }
        );
        assert_eq!(calls[0].strings, [b"a"]);
        assert!(calls[1].files[0].is_tcp);
        assert_eq!(calls[1].data(), b"250");
        assert_eq!((calls[2].begun, calls[2].ended, calls[2].last_number()), (1, 3, 4096));
        assert_eq!(calls[2].data(), b"hi");
        assert_eq!(calls[3].files[0].path, None);
        assert_eq!(calls[4].data(), b"abc");
        assert_eq!(calls[5].files[0].path.as_deref(), Some("/u"));
    }
}
