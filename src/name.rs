//! Names: what a certificate is for, and what the configuration calls things.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// What a certificate vouches for: a DNS name or an IP address
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4>, <https://www.rfc-editor.org/rfc/rfc8738>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identifier {
    /// A DNS name, or a wildcard
    Dns(DnsName),
    /// An IP address
    Ip(IpAddr),
}

impl Identifier {
    /// Read an identifier as a person writes it: IDN, upper case and IP literals are taken
    ///
    /// # Errors
    /// Says which character or label no CA would take.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        match literal.parse() {
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => DnsName::parse(text).map(Self::Dns),
        }
    }

    /// Whether this is `*.` something, which http-01 cannot prove
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.as_str().starts_with("*."))
    }

    /// Whether a certificate for `self` is good for a server called `other`
    ///
    /// <https://www.rfc-editor.org/rfc/rfc6125#section-6.4.3>
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dns(_), Self::Dns(theirs)) => self.covers_host(theirs.as_str()),
            _ => self == other,
        }
    }

    /// Whether a certificate for `self` is good for what somebody else calls a host of DNS, also
    /// where no CA would take that name
    pub fn covers_host(&self, host: &str) -> bool {
        let Self::Dns(ours) = self else { return false };
        let wildcard = ours.as_str().strip_prefix("*.").is_some_and(|parent| {
            host.split_once('.')
                .is_some_and(|(label, rest)| label != "*" && rest.eq_ignore_ascii_case(parent))
        });
        wildcard || host.eq_ignore_ascii_case(ours.as_str())
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.pad(name.as_str()),
            Self::Ip(address) => f.pad(&address.to_string()),
        }
    }
}

impl Serialize for Identifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A DNS name as CAs take it: lower-case A-labels, no trailing dot, at most 253 characters
///
/// May begin with `*.`; accepted are letters, digits and inner hyphens in labels of at most 63.
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// Read a name as a person writes it, converting IDN to A-labels
    ///
    /// # Errors
    /// Says which character or label no CA would take.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let refuse = |reason| Err(NameError { input: text.to_owned(), reason });
        if text.is_empty() {
            return refuse(NameErrorReason::Empty);
        }
        if text.contains("://") {
            return refuse(NameErrorReason::Url);
        }
        let (prefix, rest) = match text.strip_prefix("*.") {
            Some(rest) => ("*.", rest),
            None => ("", text),
        };
        if rest.ends_with('.') {
            return refuse(NameErrorReason::TrailingDot);
        }
        let offset = prefix.len();
        let bad = rest
            .char_indices()
            .find(|(_, c)| c.is_ascii() && !(c.is_ascii_alphanumeric() || *c == '-' || *c == '.'));
        if let Some((at, character)) = bad {
            let position = text[..offset + at].chars().count() + 1;
            return refuse(NameErrorReason::Character { character, position });
        }
        let Ok(ascii) = idna::domain_to_ascii_strict(rest) else {
            let refused = |label: &&str| idna::domain_to_ascii_strict(label).is_err();
            let label = rest.split('.').find(refused).unwrap_or(rest).to_owned();
            // One that is refused by itself, or only beside the others of its label.
            let alone =
                |c: &char| !c.is_ascii() && idna::domain_to_ascii_strict(&c.to_string()).is_err();
            let character = label.chars().find(alone);
            return refuse(label_error(rest).unwrap_or(match character {
                Some(character) => NameErrorReason::IdnaCharacter { label, character },
                None => NameErrorReason::Idna(label),
            }));
        };
        if let Some(reason) = label_error(&ascii) {
            return refuse(reason);
        }
        Ok(Self(format!("{prefix}{ascii}")))
    }

    /// The name in A-labels
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn label_error(name: &str) -> Option<NameErrorReason> {
    if name.len() > 253 {
        return Some(NameErrorReason::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Some(NameErrorReason::EmptyLabel);
        }
        if label.len() > 63 {
            return Some(NameErrorReason::LongLabel(label.to_owned()));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some(NameErrorReason::Hyphen(label.to_owned()));
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()).then_some(NameErrorReason::NumericTop)
}

/// Why a text is no name that a CA would take
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{}` {reason}", input.escape_debug())]
pub struct NameError {
    input: String,
    reason: NameErrorReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum NameErrorReason {
    #[error("is empty")]
    Empty,
    #[error("is a URL; give the host name alone")]
    Url,
    #[error("ends with a dot; leave the dot out")]
    TrailingDot,
    #[error(
        "has `{}` as character {position}; a name has letters, digits, hyphens and dots",
        character.escape_debug()
    )]
    Character { character: char, position: usize },
    #[error("has the label `{}`, which cannot be written as an A-label (IDNA)", .0.escape_debug())]
    Idna(String),
    #[error(
        "has `{}` in the label `{}`, which no internationalised name may have (IDNA)",
        character.escape_debug(), label.escape_debug()
    )]
    IdnaCharacter { label: String, character: char },
    #[error("is longer than 253 characters")]
    TooLong,
    #[error("has two dots in a row, or a dot at its start")]
    EmptyLabel,
    #[error("has the label `{}`, which is longer than 63 characters", .0.escape_debug())]
    LongLabel(String),
    #[error("has the label `{}`, which begins or ends with a hyphen", .0.escape_debug())]
    Hyphen(String),
    #[error("ends in a label of digits only, which is no top-level domain and no IP address")]
    NumericTop,
}

macro_rules! given_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 100 characters: letters, digits, `.`, `_`, `-`, beginning with a letter or digit,
        /// since it is a file name and appears in logs and metrics.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Take a name that the operator chose
            ///
            /// # Errors
            /// Says which character is not possible.
            pub fn parse(text: &str) -> Result<Self, GivenNameError> {
                given(text, $what)?;
                Ok(Self(text.to_owned()))
            }

            /// The name as text
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

given_name! {
    /// What the configuration calls a certificate
    CertName, "a certificate"
}
given_name! {
    /// What the configuration calls an issuer
    IssuerName, "an issuer"
}
given_name! {
    /// What the configuration calls a target of a certificate
    TargetName, "a target"
}

/// What a target is called where the configuration names none
impl Default for TargetName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

fn given(text: &str, what: &'static str) -> Result<(), GivenNameError> {
    let refuse = |reason| Err(GivenNameError { what, input: text.to_owned(), reason });
    if text.is_empty() || text.len() > 100 {
        return refuse("has 1 to 100 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse("begins with a letter or a digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return refuse("has only letters, digits, `.`, `_` and `-`");
    }
    Ok(())
}

/// Why a text cannot be the name of something in the configuration
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{}` cannot name {what}: such a name {reason}", input.escape_debug())]
pub struct GivenNameError {
    what: &'static str,
    input: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_lower_case_a_labels() {
        let cases = [
            ("Example.COM", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.Bücher.example", "*.xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("a-b.c1.test", "a-b.c1.test"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "2001:db8::1"),
        ];
        for (text, expected) in cases {
            assert_eq!(Identifier::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_name_no_ca_takes_is_refused_with_the_reason() {
        let long_label = format!("{}.test", "a".repeat(64));
        let long_name = "a.".repeat(130) + "test";
        let cases = [
            ("", "empty"),
            ("https://example.com/", "URL"),
            ("example.com.", "dot"),
            ("ex_ample.com", "`_` as character 3"),
            ("a;id", "`;` as character 2"),
            ("$(id).example", "`$` as character 1"),
            ("-oProxyCommand=x", "`=`"),
            ("-a.example", "hyphen"),
            ("a\n.example", r"`\n` as character 2"),
            ("a..example", "two dots"),
            ("*.*.example", "`*` as character 3"),
            ("a.*.example", "`*` as character 3"),
            ("example.com:443", "`:`"),
            ("256.1.1.1", "digits"),
            (&long_label, "longer than 63"),
            (&long_name, "longer than 253"),
        ];
        for (text, expected) in cases {
            let error = Identifier::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let id = |text| Identifier::parse(text).unwrap();
        assert!(id("*.a.test").covers(&id("b.a.test")));
        assert!(!id("*.a.test").covers(&id("a.test")));
        assert!(!id("*.a.test").covers(&id("c.b.a.test")));
        assert!(id("*.a.test").covers(&id("*.a.test")));
        assert!(id("192.0.2.1").covers(&id("192.0.2.1")));
        assert!(!id("a.test").covers(&id("b.test")));
    }

    #[test]
    fn a_given_name_is_a_safe_file_name() {
        assert!(CertName::parse("example.com").is_ok());
        for text in ["", ".", "..", ".hidden", "a/b", "a b", "-x", "ü", &"a".repeat(101)] {
            assert!(CertName::parse(text).is_err(), "{text:?}");
        }
    }
}
