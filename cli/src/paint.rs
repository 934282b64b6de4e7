//! What things look like on a terminal. `anstream` takes the colours away where the output is none, or NO_COLOR is set.

use anstyle::{AnsiColor, Style};
use std::fmt;

/// Headings.
pub const TITLE: Style = AnsiColor::Cyan.on_default().bold();
/// What is found but matters less: addresses of frames, things left out.
pub const FAINT: Style = Style::new().dimmed();
/// Names of the words that the documentation uses, where they are pointed out.
pub const MARK: Style = AnsiColor::Yellow.on_default();
/// What exeunt put there.
pub const OURS: Style = AnsiColor::Green.on_default().bold();
/// What was there before.
pub const THEIRS: Style = AnsiColor::Magenta.on_default();
/// Good and bad news.
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in a style.
pub fn paint<T: fmt::Display>(style: Style, text: T) -> impl fmt::Display {
    struct Painted<T>(Style, T);
    impl<T: fmt::Display> fmt::Display for Painted<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}{}{:#}", self.0, self.1, self.0)
        }
    }
    Painted(style, text)
}

/// `text` made as long as `width` by a gap behind it, in a style.
pub fn padded(style: Style, text: &str, width: usize) -> impl fmt::Display {
    paint(style, format!("{text:width$}"))
}

/// At most `width` characters of `text`, with an ellipsis in the middle where some had to go: the ends of a symbol's
/// name say more than its middle.
pub fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    let front = (width - 1) / 3;
    let back = width - 1 - front;
    let head: String = text.chars().take(front).collect();
    let tail: String = text.chars().skip(count - back).collect();
    format!("{head}…{tail}")
}
