//! Text that somebody else wrote, made harmless before anyone sees it.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Text from a CA, a certificate, a hook or a peer
///
/// Kept as it came; shown with control characters, bidirectional overrides and other characters
/// that move a cursor or hide text escaped, and cut at [`External::LIMIT`]. There is no way to
/// the raw text, so none of it can reach a terminal, a log line or a shell as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct External(String);

impl External {
    /// The most bytes that are kept of one text
    pub const LIMIT: usize = 2048;

    /// Take foreign text, cut at the limit
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let cut = text.floor_char_boundary(Self::LIMIT);
        let mut safe = String::with_capacity(cut);
        for c in text[..cut].chars() {
            if is_unsafe(c) {
                safe.extend(c.escape_unicode());
            } else {
                safe.push(c);
            }
        }
        if cut < text.len() {
            safe.push('…');
        }
        Self(safe)
    }

    /// Whether nothing was said
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The escaped text
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character steers a terminal, reorders a line or cannot be seen
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for External {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for External {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// A number of things, with the word for them: `1 certificate`, `3 certificates`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub usize, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match (self.0, self.1.ends_with('s')) {
            (1, _) => "",
            (_, true) => "es",
            (_, false) => "s",
        };
        write!(f, "{} {}{ending}", self.0, self.1)
    }
}

/// Add a line, or several where one is wider than a terminal, the later ones indented
///
/// A word is never broken: whoever needs a path wants to copy it.
pub fn fitting(text: &mut String, indent: usize, content: &str) {
    let (mut rest, mut margin) = (content, 0);
    while rest.chars().count() > WIDTH.saturating_sub(margin) {
        let blank = rest.len() - rest.trim_start().len();
        let spaces =
            || rest.char_indices().enumerate().filter(|(_, (at, c))| *c == ' ' && *at > blank);
        let last = spaces().take_while(|(column, _)| column + margin <= WIDTH).last();
        // The first word alone may be too wide.
        let Some((_, (at, _))) = last.or_else(|| spaces().next()) else { break };
        let (now, later) = rest.split_at(at);
        push_line(text, margin, now);
        (rest, margin) = (later.trim_start(), indent);
    }
    push_line(text, margin, rest);
}

fn push_line(text: &mut String, margin: usize, content: &str) {
    text.extend(std::iter::repeat_n(' ', margin));
    text.push_str(content.trim_end());
    text.push('\n');
}

/// How many columns are sure to be there
const WIDTH: usize = 79;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_between_words_where_a_terminal_ends() {
        let word = "é".repeat(39);
        let long = "x".repeat(90);
        let cases = [
            (format!("{word} {word}"), format!("{word} {word}\n")),
            (format!("{word}  {word}y z"), format!("{word}\n    {word}y z\n")),
            (format!("    {long} y"), format!("    {long}\n    y\n")),
            (format!("  at {long}  y  "), format!("  at\n    {long}\n    y\n")),
            (String::new(), "\n".to_owned()),
        ];
        for (content, expected) in cases {
            let mut text = String::new();
            fitting(&mut text, 4, &content);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn one_is_not_many() {
        for (number, word, expected) in [
            (0, "renewal", "0 renewals"),
            (1, "address", "1 address"),
            (2, "address", "2 addresses"),
        ] {
            assert_eq!(Count(number, word).to_string(), expected);
        }
    }

    #[test]
    fn nothing_that_moves_a_cursor_survives() {
        let hostile = "a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}e\0";
        let shown = External::new(hostile).to_string();
        assert_eq!(shown, r"a\u{1b}[2Jb\u{d}\u{a}c\u{202e}d\u{9b}e\u{0}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let shown = External::new("é".repeat(5000)).to_string();
        assert!(shown.len() <= External::LIMIT + '…'.len_utf8());
        assert!(shown.ends_with('…'));
    }
}
