//! Styles of the output. `anstream` removes them where the output is not a terminal or NO_COLOR is
//! set.

use anstyle::{AnsiColor, Style};
use std::fmt;

/// Headings.
pub const TITLE: Style = AnsiColor::Cyan.on_default().bold();
/// Details: addresses of frames, omitted lines.
pub const FAINT: Style = Style::new().dimmed();
/// Terms of the documentation, where the output points them out.
pub const MARK: Style = AnsiColor::Yellow.on_default();
/// Values that exeunt wrote.
pub const OURS: Style = AnsiColor::Green.on_default().bold();
/// Values from before.
pub const THEIRS: Style = AnsiColor::Magenta.on_default();
/// A success.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// A failure.
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

/// `text` in a style, padded with spaces to `width`.
pub fn padded(style: Style, text: &str, width: usize) -> impl fmt::Display {
    paint(style, format!("{text:width$}"))
}

/// At most `width` characters of `text`. An ellipsis replaces the middle if the text is longer,
/// because the ends of a symbol's name identify it better.
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
