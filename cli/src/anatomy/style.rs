//! What the picture and the page share: colours for light and dark, and quoting.

use super::model::Class;

/// Background and text of a class: light, then dark.
fn colours(class: Class) -> [&'static str; 4] {
    match class {
        Class::Foot => ["#ffe08a", "#4d3a00", "#6b5300", "#ffeab0"],
        Class::ReturnAddress => ["#f1d5fa", "#651a7c", "#4f2860", "#f0c4ff"],
        Class::SavedRegister => ["#cdeff6", "#0a5061", "#0f4855", "#a8ebf8"],
        Class::ThisStack => ["#d9e4ff", "#1b3c8c", "#233970", "#bcd0ff"],
        Class::Heap => ["#d8f3dc", "#1b5727", "#1f4a29", "#b3ecbd"],
        Class::Code => ["#ffe2d0", "#83370a", "#58301a", "#ffcdac"],
        Class::Data => ["#e8e8f4", "#45456a", "#35354c", "#d0d0ea"],
        Class::Zero => ["none", "#707070", "none", "#9a9a9a"],
        Class::Other => ["none", "#3a3a3a", "none", "#cfcfcf"],
    }
}

/// The colours of the rest: name of the style, light, dark.
const REST: [(&str, &str, &str); 7] = [
    ("page", "#ffffff", "#15171c"),
    ("frame", "#f6f7f9", "#1d2027"),
    ("line", "#d5d8de", "#3a3f4a"),
    ("text", "#1c1e22", "#e8e9ec"),
    ("faint", "#5f6570", "#a0a6b2"),
    ("good", "#17652b", "#86dd98"),
    ("bad", "#a11220", "#ff9aa2"),
];

/// The rules of a style sheet: for each class and each of the rest, `rule` makes them from a name,
/// a background and a foreground. The second half is for dark screens.
pub fn sheet(rule: impl Fn(&str, &str, &str) -> String) -> String {
    let mut sheet = String::new();
    for dark in [false, true] {
        let mut rules = String::new();
        for class in Class::ALL {
            let [a, b, c, d] = colours(class);
            rules += &if dark { rule(class.id(), c, d) } else { rule(class.id(), a, b) };
        }
        for (name, light, night) in REST {
            let colour = if dark { night } else { light };
            rules += &rule(name, colour, colour);
        }
        sheet += &if dark { format!("@media (prefers-color-scheme: dark) {{\n{rules}}}\n") } else { rules };
    }
    sheet
}

/// Text for a page or a picture.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => quoted += "&amp;",
            '<' => quoted += "&lt;",
            '>' => quoted += "&gt;",
            '"' => quoted += "&quot;",
            // No other control character can be in XML.
            control if control.is_control() => quoted.push('\u{fffd}'),
            other => quoted.push(other),
        }
    }
    quoted
}
