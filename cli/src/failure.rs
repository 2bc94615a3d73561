//! How a command fails: what it says on its one line, and the exit code.

/// A failure of a command. Prints as `lacuna: {message}` on stderr.
#[derive(Debug)]
pub enum Failure {
    /// The request is wrong: a file, a shape, a key, an option. Exit code 2.
    Request(String),
    /// The request is right, but a check or the device failed. Exit code 1.
    Failed(String),
}

/// Characters of a message that are shown.
const LONGEST: usize = 1000;

/// `Result` of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// The process exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Request(_) => 2,
            Self::Failed(_) => 1,
        }
    }

    /// The message as one line, whatever it was made of.
    pub fn line(&self) -> String {
        let (Self::Request(text) | Self::Failed(text)) = self;
        // Names come from files: what would move the cursor or colour the terminal is shown escaped.
        let shown: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let long = shown.chars().nth(LONGEST).is_some();
        let shown = shown.chars().take(LONGEST).chain(long.then_some('…'));
        shown.flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    }
}

impl From<lacuna::Error> for Failure {
    fn from(error: lacuna::Error) -> Self {
        use lacuna::Error as E;
        match error {
            E::Shape { .. } | E::Value { .. } | E::Unsupported { .. } | E::List { .. } => {
                Self::Request(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(format!("model: {error}"))
    }
}

/// `bail!`-like shorthand: `return request!("...")`.
macro_rules! request {
    ($($arg:tt)*) => {
        Err($crate::failure::Failure::Request(format!($($arg)*)))
    };
}
pub(crate) use request;
