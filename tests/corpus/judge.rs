//! What Python reads: its email package, and flufl.bounce. The questions go to `judge.py` on stdin,
//! one line each.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use world::Value;

use crate::stage::Stage;
use crate::tally::Verdict;

/// Are two messages the same tree? For each number: as it was sent, as it arrived.
pub(crate) fn trees(
    stage: &Stage,
    pairs: &BTreeMap<usize, Vec<PathBuf>>,
) -> BTreeMap<usize, Verdict> {
    let questions = pairs.iter().map(|(number, paths)| {
        let paths = paths.iter().map(|path| Value::from(path.display().to_string())).collect();
        question(*number, [("files", Value::Array(paths))])
    });
    ask(stage, "trees", questions.collect())
}

/// A question about the message of that number.
pub(crate) fn question<const N: usize>(number: usize, about: [(&str, Value); N]) -> Value {
    let mut map: BTreeMap<&str, Value> = about.into_iter().collect();
    map.insert("n", Value::from(number));
    Value::from_iter(map)
}

/// What `judge.py WHAT` says to each question.
pub(crate) fn ask(stage: &Stage, what: &str, questions: Vec<Value>) -> BTreeMap<usize, Verdict> {
    let lines: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let said = python(stage, what, lines);
    let answers: BTreeMap<usize, Verdict> = said.lines().map(answer).collect();
    assert_eq!(answers.len(), questions.len(), "judge.py {what} says something to each");
    answers
}

fn python(stage: &Stage, what: &str, lines: String) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/judge.py");
    let mut child = Command::new("python3")
        .args(["-W", "ignore"])
        .arg(script)
        .arg(what)
        .env("PYTHONPATH", stage.cache.join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut stdin = child.stdin.take().expect("piped");
    // It answers while it is asked: who waited for the end of the questions first would wait for
    // ever.
    let asking = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("python3 ends");
    asking.join().expect("the thread ends").expect("python3 reads");
    assert!(output.status.success(), "judge.py {what} failed");
    String::from_utf8(output.stdout).expect("JSON is UTF-8")
}

fn answer(line: &str) -> (usize, Verdict) {
    let answer: Value = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = answer.get("why").and_then(Value::as_str).unwrap_or_default().to_owned();
    let verdict = match answer.get("verdict").and_then(Value::as_str) {
        Some("identical") => Verdict::Identical,
        Some("converted") => Verdict::Converted,
        Some("refused") => Verdict::Refused(text),
        Some("allowed") => Verdict::Allowed(text),
        Some("differing") => Verdict::Differing(text),
        other => panic!("{other:?}: {line}"),
    };
    let number = answer.get("n").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    (number.expect("the number of the question"), verdict)
}
