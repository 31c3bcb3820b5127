//! As much of a shell's grammar as the documents use: words, quotes, comments, `&&` and `|`, and
//! documents behind `<<'END'`.

/// A line as it is typed, with the lines that belong to it.
#[derive(Debug, Default)]
pub(super) struct ShellLine {
    /// As it is written.
    pub(super) text: String,
    /// The words of its commands, without quotes and redirections.
    pub(super) commands: Vec<Vec<String>>,
    /// What stands behind `<<'END'`.
    pub(super) documents: Vec<String>,
}

/// Where a word is in its quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Quoted {
    No,
    Single,
    Double,
}

/// What has been read of a line.
struct ShellReader {
    line: ShellLine,
    command: Vec<String>,
    word: Option<String>,
    quoted: Quoted,
    /// Ends of documents that begin behind this line.
    ends: Vec<String>,
    /// The operator `<`, `>` or `<<` that the next word is for.
    redirection: Option<&'static str>,
}

impl ShellReader {
    fn new() -> Self {
        Self {
            line: ShellLine::default(),
            command: Vec::new(),
            word: None,
            quoted: Quoted::No,
            ends: Vec::new(),
            redirection: None,
        }
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        match self.redirection.take() {
            Some("<<") => self.ends.push(word),
            Some(_) => {}
            None => self.command.push(word),
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.command.is_empty() {
            self.line.commands.push(std::mem::take(&mut self.command));
        }
    }

    /// One character outside of quotes, or an end of them.
    fn take(&mut self, c: char) {
        match (self.quoted, c) {
            (Quoted::Single, '\'') | (Quoted::Double, '"') => self.quoted = Quoted::No,
            (Quoted::Single | Quoted::Double, c) => self.word.get_or_insert_default().push(c),
            (Quoted::No, '\'' | '"') => {
                self.quoted = if c == '"' { Quoted::Double } else { Quoted::Single };
                self.word.get_or_insert_default();
            }
            (Quoted::No, '<' | '>') => {
                // Of `2>`, the number of a descriptor.
                self.word.take_if(|word| word.bytes().all(|b| b.is_ascii_digit()));
                self.end_word();
                let is_second = self.redirection == Some("<");
                self.redirection = Some(if is_second {
                    "<<"
                } else if c == '<' {
                    "<"
                } else {
                    ">"
                });
            }
            (Quoted::No, '&') if self.redirection.is_some() && self.word.is_none() => {
                self.word = Some("&".to_owned());
            }
            (Quoted::No, '|' | '&' | ';') => self.end_command(),
            (Quoted::No, c) if c.is_whitespace() => self.end_word(),
            (Quoted::No, c) => self.word.get_or_insert_default().push(c),
        }
    }
}

/// The lines of a script. A line without a command, such as a comment, is none.
pub(super) fn shell_lines(script: &str) -> Vec<ShellLine> {
    let mut lines = Vec::new();
    let mut rest = script.lines();
    while let Some(first) = rest.next() {
        let mut reader = ShellReader::new();
        let mut text = first.to_owned();
        loop {
            let is_continued = read_text_line(&mut reader, text.rsplit('\n').next().unwrap());
            if !is_continued {
                break;
            }
            text.extend(["\n", rest.next().expect("a line ends")]);
        }
        reader.end_command();
        for end in std::mem::take(&mut reader.ends) {
            let body: Vec<&str> = rest.by_ref().take_while(|line| *line != end).collect();
            text.extend(["\n", &body.join("\n"), "\n", &end, "\n"]);
            reader.line.documents.push(body.join("\n") + "\n");
        }
        reader.line.text = text;
        if !reader.line.commands.is_empty() {
            lines.push(reader.line);
        }
    }
    lines
}

/// Does the line go on with the next one?
fn read_text_line(reader: &mut ShellReader, line: &str) -> bool {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        let is_outside = reader.quoted == Quoted::No;
        if is_outside && c == '#' && before.is_whitespace() {
            break;
        }
        if is_outside && c == '\\' && at + 1 == line.len() {
            reader.end_word();
            return true;
        }
        reader.take(c);
        before = c;
    }
    if reader.quoted == Quoted::No {
        return false;
    }
    reader.take('\n');
    true
}

#[test]
fn a_line_is_its_commands_and_what_belongs_to_them() {
    let script = "# nothing\n\
                  a 'b c' --d=\"e # f\" 2>&1 | g && h 2>>i # j\n\
                  k \\\n    l\n\
                  m > n <<'END'\n[o]\np = 1\nEND\n\
                  q \"r\ns\"; t\n";
    let lines = shell_lines(script);
    let commands: Vec<Vec<Vec<&str>>> = lines
        .iter()
        .map(|line| {
            line.commands.iter().map(|words| words.iter().map(String::as_str).collect()).collect()
        })
        .collect();
    let want = vec![
        vec![vec!["a", "b c", "--d=e # f"], vec!["g"], vec!["h"]],
        vec![vec!["k", "l"]],
        vec![vec!["m"]],
        vec![vec!["q", "r\ns"], vec!["t"]],
    ];
    assert_eq!(commands, want);
    assert_eq!(lines[2].documents, ["[o]\np = 1\n"]);
    assert_eq!(lines[2].text, "m > n <<'END'\n[o]\np = 1\nEND\n");
    assert_eq!(lines[1].text, "k \\\n    l");
}
