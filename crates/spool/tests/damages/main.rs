//! One damage after the other to a data directory with mail of all kinds: what is not hit is sent,
//! what is hit is named, nothing is sent to somebody else, nothing is deleted.
//!
//! `cargo test -p spool --test damages -- count=2000 [seed=N]`. Half of the damages are to the
//! octets of a file, half to one value, with the structure of the database whole.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test program prints, and fails by panicking"
)]

#[path = "../common/mod.rs"]
mod common;
mod outcome;
mod queue;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::Value;
use spool::OpenError;
use world::Argument;
use world::damage::{Damage as FileDamage, PAGE};
use world::replay::Random;

use crate::outcome::Outcome;
use crate::queue::Master;

fn main() {
    let (mut count, mut seed) = (60, 1);
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        let argument = Argument::parse(&argument);
        match argument.name.as_str() {
            "count" => count = argument.number(),
            "seed" => seed = argument.number(),
            _ => argument.unknown(),
        }
    }
    let master = Master::make();
    let mut tally: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..count {
        let mut random = Random::new(seed + round);
        let dir = tempfile::tempdir().unwrap();
        common::snapshot(master.dir(), dir.path());
        let damage = Damage::choose(&mut random, dir.path(), &master);
        let name = format!("seed={} {damage:?}", seed + round);
        let told = name.clone();
        std::panic::set_hook(Box::new(move |panic| println!("{told}\n{panic}")));
        let kind = judge(&master, dir.path(), &damage, &name);
        *tally.entry(kind).or_default() += 1;
    }
    println!("{count} damages from seed {seed}: {tally:?}");
    println!("test result: {count} passed; 0 failed");
}

/// What was done.
#[derive(Debug)]
pub(crate) enum Damage {
    /// To the octets of a file.
    File(FileDamage),
    /// One value of a row, in a database that is whole.
    Value { table: String, key: Value, column: String },
}

impl Damage {
    fn choose(random: &mut Random, dir: &Path, master: &Master) -> Self {
        if random.coin() {
            return Self::of_a_value(random, dir);
        }
        let damage = of_a_file(random, master);
        damage.apply(dir);
        Self::File(damage)
    }

    fn of_a_value(random: &mut Random, dir: &Path) -> Self {
        let table =
            ["messages", "recipients", "lanes", "bodies", "enforced", "marks"][random.below(6)];
        let db = Connection::open(dir.join("queue.db")).unwrap();
        let columns: Vec<String> = db
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"))
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let keys: Vec<Value> = db
            .prepare(&format!("SELECT {} FROM {table} ORDER BY 1", columns[0]))
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let key = keys[random.below(keys.len())].clone();
        let column = columns[random.below(columns.len())].clone();
        let select = format!("SELECT {column} FROM {table} WHERE {} = ?1", columns[0]);
        let old: Value = db.query_row(&select, [&key], |row| row.get(0)).unwrap();
        let new = another(random, old);
        let update = format!("UPDATE {table} SET {column} = ?2 WHERE {} = ?1", columns[0]);
        // A value that the rules of the table do not let in is none that a disk would make of it.
        let _ = db.execute(&update, rusqlite::params![key, new]);
        Self::Value { table: table.into(), key, column }
    }

    /// Pages of queue.db that it changed, as a test for their numbers from 1.
    pub(crate) fn hits_page(&self, page: usize) -> bool {
        let Self::File(damage) = self else { return false };
        let octets = damage.octets();
        let (begin, end) = ((page - 1) * PAGE, page * PAGE);
        damage.file() == Path::new("queue.db") && octets.start < end && begin < octets.end
    }

    pub(crate) fn is_without_queue(&self) -> bool {
        matches!(self, Self::File(FileDamage::Gone { file }) if file == Path::new("queue.db"))
    }

    pub(crate) fn hits_file(&self, path: &Path) -> bool {
        matches!(self, Self::File(damage) if damage.file() == path)
    }
}

fn of_a_file(random: &mut Random, master: &Master) -> FileDamage {
    let bodies = master.body_files();
    let file: PathBuf = match random.below(10) {
        0..6 => "queue.db".into(),
        6 | 7 => bodies[random.below(bodies.len())].clone(),
        8 => "policies.db".into(),
        _ => ["reserve", "policies.reserve", "lock"][random.below(3)].into(),
    };
    let length = usize::try_from(master.dir().join(&file).metadata().unwrap().len()).unwrap();
    match random.below(if length == 0 { 1 } else { 12 }) {
        0 => FileDamage::Gone { file },
        1 => FileDamage::Cut { file, length: random.below(length) },
        2..5 => FileDamage::Zeros { file, page: random.below(length.div_ceil(PAGE)) },
        _ => {
            let bit = u8::try_from(random.below(8)).unwrap();
            FileDamage::Bit { file, at: random.below(length), bit }
        }
    }
}

/// Something else of the same type.
fn another(random: &mut Random, old: Value) -> Value {
    match old {
        Value::Integer(number) => Value::Integer(match random.below(4) {
            0 => number ^ 1 << random.below(40),
            1 => -number - 1,
            2 => i64::MAX - 7,
            _ => number + 1,
        }),
        Value::Text(text) if !text.is_empty() => {
            let mut octets = text.into_bytes();
            let at = random.below(octets.len());
            octets[at] ^= 1 << random.below(7);
            Value::Text(String::from_utf8_lossy(&octets).into_owned())
        }
        Value::Blob(mut octets) if !octets.is_empty() => {
            let at = random.below(octets.len());
            octets[at] ^= 1 << random.below(8);
            Value::Blob(octets)
        }
        Value::Null => Value::Integer(7),
        Value::Text(_) | Value::Blob(_) | Value::Real(_) => Value::Integer(7),
    }
}

/// Opens, reads, repairs and reads again. Says how it went.
fn judge(master: &Master, dir: &Path, damage: &Damage, name: &str) -> &'static str {
    let kind = match Outcome::of(dir) {
        Ok(outcome) => {
            outcome.assert_right(master, damage, name);
            assert_nothing_deleted(master, dir, damage, name);
            "started"
        }
        Err(error) => {
            assert_error_helps(&error, master, damage, name);
            "refused"
        }
    };
    let gone = damage.is_without_queue();
    match spool::repair(dir) {
        Ok(_) => {}
        // There is nothing to repair it from.
        Err(spool::CopyError::NoQueue { .. }) if gone => return "gone",
        Err(error) => panic!("{name}: repair: {error}"),
    }
    let repaired =
        Outcome::of(dir).unwrap_or_else(|error| panic!("{name}: after a repair: {error}"));
    repaired.assert_right(master, damage, &format!("{name}, repaired"));
    assert_nothing_deleted(master, dir, damage, name);
    kind
}

fn assert_error_helps(error: &OpenError, master: &Master, damage: &Damage, name: &str) {
    let text = error.to_string();
    assert!(text.contains("queue.db") || text.contains("policies.db"), "{name}: {text}");
    assert!(text.contains("doctor") || text.contains("backup"), "{name}: {text}");
    let hit = master.schema_pages().any(|page| damage.hits_page(page));
    // SQLite takes no file that is shorter than it says itself.
    let is_cut = matches!(damage, Damage::File(FileDamage::Cut { .. }));
    assert!(hit || is_cut, "{name}: it has to start: {text}");
}

fn assert_nothing_deleted(master: &Master, dir: &Path, damage: &Damage, name: &str) {
    let lost: Vec<_> = fs::read_dir(dir.join("bodies/lost"))
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    for file in master.body_files() {
        let is_kept = dir.join(&file).exists()
            || lost.iter().any(|one| Some(one.as_os_str()) == file.file_name());
        assert!(is_kept || damage.hits_file(&file), "{name}: {}", file.display());
    }
}
