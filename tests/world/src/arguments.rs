//! What a bench or crash program is asked for on its command line: `NAME=VALUE`.

/// One of them.
#[derive(Clone, Debug)]
pub struct Argument {
    /// What stands before the `=`.
    pub name: String,
    /// What stands behind it.
    pub value: String,
}

impl Argument {
    /// Reads `NAME=VALUE`.
    ///
    /// # Panics
    ///
    /// When it is anything else.
    pub fn parse(text: &str) -> Self {
        let Some((name, value)) = text.split_once('=') else {
            panic!("{text}: arguments are NAME=VALUE");
        };
        Self { name: name.to_owned(), value: value.to_owned() }
    }

    /// All of this process; cargo adds a `--bench` of its own.
    pub fn all() -> Vec<Self> {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        arguments.map(|argument| Self::parse(&argument)).collect()
    }

    /// The value as a number.
    ///
    /// # Panics
    ///
    /// When it is none.
    pub fn number<N: TryFrom<u64>>(&self) -> N {
        let number: Option<u64> = self.value.parse().ok();
        let Some(number) = number.and_then(|number| N::try_from(number).ok()) else {
            panic!("{}={}: not a number that fits", self.name, self.value);
        };
        number
    }

    /// Ends the program: nobody knows this one.
    ///
    /// # Panics
    ///
    /// Always.
    pub fn unknown(&self) -> ! {
        panic!("no such argument: {}={}", self.name, self.value)
    }
}
